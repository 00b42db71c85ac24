"""What is written in C gives the same bytes as its twin in Python."""

import json
import platform
import random
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path

import pytest

from backend.core.recording import native
from backend.core.recording.batches import split_in_python
from backend.core.recording.lines import encode_in_python
from backend.core.recording.native import OutputModule
from backend.core.recording.redaction import DEFAULT_PATTERNS, Masks
from backend.core.recording.redaction.masks import Prefilters
from backend.core.recording.redaction.spans import uncoloured_in_python
from backend.core.recording.terminal_filter import filter_in_python
from tests.needs import need

FOLDER = Path(native.__file__).parent
REPOSITORY = FOLDER.parents[3]
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
ROUNDS = 1500

CONTROLS = (b"\x1b", b"\x07", b"\r", b"\t", b"\x08", b"\x00", b"\x7f", b"\x18", b"\x1a", b"\n", b"\x9b", b"\x85")
SEQUENCES = (
    b"[",
    b"]",
    b"P",
    b"m",
    b"K",
    b"G",
    b"0",
    b"12;3",
    b":",
    b"\\",
    b"(B",
    b"\x1b[31m",
    b"\x1b]0;t\x07",
    b"!/",
    b"?",
    b"~",
)
BEYOND_ASCII = (
    "\x9b",
    "\x90",
    "\x9d",
    "\x9c",
    "\x85",
    "\u202e",
    "\u2066",
    "\u061c",
    "\xe9",
    "\u4e2d" * 50,
    "\U0001f600",
    "\u2028",
)
BROKEN = (
    b"\xe2\x80",
    b"\xe2",
    b"\xf0\x9f",
    b"\xed\xa0\x80",
    b"\xff",
    b"\xf4\x90\x80\x80",
    b"\xe0\x80\x80",
    b"\xc0\x80",
)
LONG = (b"x" * 300, b"1" * 260, b"/" * 258, b"s" * 4095)
PIECES = (*CONTROLS, *SEQUENCES, *(text.encode() for text in BEYOND_ASCII), *BROKEN, *LONG, b'"', b"abc", b" ", b"@")


@pytest.fixture
def module() -> OutputModule:
    need(native.output, "a module for this machine")
    assert native.output
    return native.output


@pytest.fixture
def chance() -> random.Random:
    return random.Random(7)


def texts(chance: random.Random) -> Iterator[bytes]:
    for _ in range(ROUNDS):
        yield b"".join(chance.choices(PIECES, k=chance.randint(0, 12)))
        yield chance.randbytes(chance.randint(0, 40))


def test_lines_are_encoded_and_taken_apart_alike(module: OutputModule, chance: random.Random) -> None:
    for text in texts(chance):
        ended = text + b"\n"
        items, count = module.encode_lines(ended)
        assert (items, count) == encode_in_python(ended)
        assert module.split_items(items) == split_in_python(items)
        assert len(module.split_items(items)) == count


@pytest.mark.parametrize(
    "items",
    [
        b'"',
        b'"a',
        b'"a\\',
        b'"\\"',
        b"a,b",
        b'"a","b',
        b'"a",',
        b'"\\q"',
        b'"\\u12g4"',
        b'"\x01"',
        b'"\xff"',
        b'"a""b"',
    ],
)
def test_what_is_no_array_of_strings_is_an_error_to_both(module: OutputModule, items: bytes) -> None:
    for split in (module.split_items, split_in_python):
        with pytest.raises(ValueError):
            split(items)


def test_whatever_is_taken_apart_is_read_within_its_bounds(module: OutputModule, chance: random.Random) -> None:
    for text in texts(chance):
        items = b'"' + text
        with suppress(ValueError):
            found = module.split_items(items)
            assert len(found) == len(split_in_python(items)), items


@pytest.mark.parametrize("final", [False, True])
def test_output_is_filtered_alike(module: OutputModule, chance: random.Random, *, final: bool) -> None:
    for text in texts(chance):
        assert module.filter_output(text, final) == filter_in_python(text, final), text


def test_colours_are_taken_out_alike(module: OutputModule, chance: random.Random) -> None:
    for text in texts(chance):
        assert module.uncoloured(text) == uncoloured_in_python(text), text


def test_all_texts_that_are_there_are_found(module: OutputModule, chance: random.Random) -> None:
    for _ in range(ROUNDS):
        wanted = [bytes(chance.choices(b"abA1", k=chance.randint(3, 6))) for _ in range(8)]
        data = bytes(chance.choices(b"abA1", k=chance.randint(0, 60)))
        found = module.find_all(module.compile_search(wanted), data)
        assert sorted(found) == [number for number, text in enumerate(wanted) if text in data]


def test_a_search_says_what_it_cannot_look_for(module: OutputModule) -> None:
    with pytest.raises(ValueError, match="too short"):
        module.compile_search([b"abc", b"ab"])
    with pytest.raises(ValueError, match="too many"):
        module.compile_search([b"abc"] * 65535)
    assert module.find_all(module.compile_search([]), b"abc") == []


def test_the_same_secrets_are_found(module: OutputModule, chance: random.Random) -> None:
    values = [chance.randbytes(12).hex(), "pa12!x", "Bien s\xfbr \u4e2d\u6587", "UPPER-lower-7"]
    masks = Masks.of(values, [*DEFAULT_PATTERNS, r"tok_[a-z0-9]{4,}", r"(?:one|other) secret"])
    in_python = replace(masks, likely=Prefilters(masks.secrets).likely)
    parts = [
        *(value.encode() for value in values),
        *(b"ghp_" + b"a1" * 12, b"tok_abcd9", b"https://u:word@host/", b"other secret", b"AKIA" + b"Z" * 16),
        *(b"\x1b[1m", b"\n", b" ", b"=", b"plain text", b"eyJ", b"sk-"),
    ]
    found = 0
    for _ in range(ROUNDS):
        data = b"".join(chance.choices(parts, k=chance.randint(1, 8)))
        spans = masks.find(data, 0)
        assert spans == in_python.find(data, 0), data
        found += len(spans[0])
    assert found > ROUNDS  # or nothing was compared


def test_what_is_shipped_is_what_was_built() -> None:
    assert sha256((FOLDER / "output.c").read_bytes()).hexdigest() == MANIFEST["source_sha256"], "run build_binaries.py"
    for machine, about in MANIFEST["binaries"].items():
        data = (FOLDER / machine / "_output.abi3.so").read_bytes()
        assert sha256(data).hexdigest() == about["sha256"]
        assert str(REPOSITORY).encode() not in data
    assert (native.output is not None) == (platform.machine() in MANIFEST["binaries"])
    assert getattr(native.output, "VERSION", MANIFEST["version"]) == MANIFEST["version"]


def test_the_distribution_contains_it() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["backend.core.recording.native"]
    files = [f"{machine}/_output.abi3.so" for machine in MANIFEST["binaries"]]
    assert [name for name in files if not any(fnmatch(name, pattern) for pattern in patterns)] == []
