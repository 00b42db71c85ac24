"""What is written in C gives the same bytes as its twin in Python."""

import json
import platform
import random
import time
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatch
from hashlib import sha256
from operator import itemgetter
from pathlib import Path

import pytest

from backend.core.recording import native
from backend.core.recording.batches import split_in_python
from backend.core.recording.lines import encode_in_python
from backend.core.recording.native import Needle, OutputModule
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


def test_frames_are_made_within_the_bounds_of_what_is_no_array(module: OutputModule, chance: random.Random) -> None:
    """Each string ends at the next quote that is not escaped; what is between quotes is not looked at."""
    errors = 0
    for text in texts(chance):
        items = text.replace(b"x", b'","')
        at, seq = chance.randint(-2, len(items) + 2), chance.choice((0, 9, 2**64 - 1))
        try:
            frames, behind, after = module.line_frames(items, at, seq, b"head", chance.choice((1, 50, 1 << 20)))
        except ValueError:
            errors += 1
        else:
            assert 0 <= at < behind <= len(items)
            assert len(frames) >= len(b"head") + (after - seq) % 2**64
    assert 0 < errors < 2 * ROUNDS


@pytest.mark.parametrize("final", [False, True])
def test_output_is_filtered_alike(module: OutputModule, chance: random.Random, *, final: bool) -> None:
    for text in texts(chance):
        assert module.filter_output(text, final) == filter_in_python(text, final), text


UNUSUAL = ("\u0905", "\ud7ff", "\uac00", "\u07ff", "\u0800", "\uffff", "\xe9", "\u4e2d", "\u2014", "\xbf", "\U0001f600")


def test_characters_are_alike_wherever_they_are_among_sixteen_bytes(module: OutputModule) -> None:
    pieces = (*CONTROLS, *BROKEN, *(text.encode() for text in (*UNUSUAL, *BEYOND_ASCII)), b'"', b"\\", b"\xc3", b"\xa9")
    for before, after in (
        (b"x", b"y"),
        ("\xe9".encode(), "\u4e2d".encode()),
        ("\u4e2d".encode(), b"z"),
        (b"\n", "\u2014".encode()),
    ):
        for piece in pieces:
            for count in range(36):
                text = before * count + piece + after * 12
                assert module.encode_lines(text + b"\n") == encode_in_python(text + b"\n"), text
                assert module.filter_output(text, False) == filter_in_python(text, False), text
                assert module.filter_output(before * count + piece, False) == filter_in_python(
                    before * count + piece, False
                )


def test_characters_with_a_byte_changed_are_alike(module: OutputModule, chance: random.Random) -> None:
    for _ in range(4 * ROUNDS):
        text = bytearray(
            "".join(chance.choices((*UNUSUAL, "a", "b", '"', "\n"), k=chance.randint(1, 40))).encode("utf-8", "replace")
        )
        for _ in range(chance.randint(0, 2)):
            text[chance.randrange(len(text))] = chance.randrange(256)
        data = bytes(text)
        assert module.encode_lines(data + b"\n") == encode_in_python(data + b"\n"), data
        assert module.filter_output(data, False) == filter_in_python(data, False), data


def test_colours_are_taken_out_alike(module: OutputModule, chance: random.Random) -> None:
    for text in texts(chance):
        assert module.uncoloured(text) == uncoloured_in_python(text), text


def test_all_texts_that_are_there_are_found(module: OutputModule, chance: random.Random) -> None:
    for _ in range(ROUNDS):
        wanted = [bytes(chance.choices(b"abA1", k=chance.randint(3, 6))) for _ in range(8)]
        data = bytes(chance.choices(b"abA1", k=chance.randint(0, 60)))
        found = module.find_all(module.compile_search([Needle(text) for text in wanted]), data)
        expected = [(number, at) for number, text in enumerate(wanted) for at in range(60) if data.startswith(text, at)]
        assert sorted(found) == expected
        assert sorted(found, key=itemgetter(0)) == expected  # those of each are in order


def test_a_search_says_what_it_cannot_look_for(module: OutputModule) -> None:
    short, usual = Needle(b"ab"), Needle(b"abc")
    with pytest.raises(ValueError, match="too short"):
        module.compile_search([usual, short])
    with pytest.raises(ValueError, match="too many"):
        module.compile_search([usual] * 65535)
    for cut in (Needle(b"abc", b"\1" + bytes(31)), Needle(b"abc", b"\2" + bytes(32)), Needle(b"abc", b"", bytes(33))):
        with pytest.raises(ValueError, match="is cut"):
            module.compile_search([usual, cut])
    assert module.find_all(module.compile_search([]), b"abc") == []


CONDITIONS = ("", r"\b", r"(?<!a)", r"(?<!\w\w)", r"(?<![\w-][\w-])", r"(?<!a|b)", r"(?<!b)(?<!--)")
ATOMS = ("a", "b", "-", r"\.", r"\w", "[ab]", "[^a]", r"[^\s:/@]", "[a-c-]", ":", r"\s", ".")
REPEATS = ("", "", "*", "+", "?", "{2}", "{2,}", "{1,3}", "{62,}", "{0,70}")
KINDS_OF_TEXT = (b"ab", b"ab-", b"abc-.:@/ \n", b"aaaaaaab", b"a-a-a-a-\n")


def test_every_match_of_a_pattern_is_found(module: OutputModule, chance: random.Random) -> None:
    found = 0
    for _ in range(2 * ROUNDS):
        rest = [chance.choice(ATOMS) + chance.choice(REPEATS) for _ in range(chance.randint(0, 5))]
        lead = "".join(chance.choices("ab-", k=chance.randint(2, 4)))
        secret = chance.randint(0, len(rest) + 3)
        rest[secret : secret + 1] = [f"(?P<secret>{atom})" for atom in rest[secret : secret + 1]]
        masks = Masks.of([], [chance.choice(CONDITIONS) + lead + "".join(rest)])
        in_python = replace(masks, search=Prefilters(masks.secrets).search)
        data = b"".join(bytes(chance.choices(chance.choice(KINDS_OF_TEXT), k=chance.randint(0, 90))) for _ in range(3))
        data = data[:99] + lead.encode() + data[99:]
        spans = masks.find(data, 0)
        assert spans == in_python.find(data, 0), (masks.secrets, data)
        found += len(spans[0])
    assert found > ROUNDS


def test_tokens_with_one_byte_changed_are_found_alike(module: OutputModule, chance: random.Random) -> None:
    masks = Masks.of([], DEFAULT_PATTERNS)
    in_python = replace(masks, search=Prefilters(masks.secrets).search)
    tokens = [
        *(
            b"gho_" + b"a1" * 10,
            b"github_pat_" + b"Z_" * 10,
            b"AKIA" + b"Z9" * 8,
            b"sk-" + b"a-" * 10,
            b"xoxb-12-abcdefghi",
        ),
        *(b"eyJ" + b"a" * 13 + b".eyJab." + b"-" * 10, b"gl_" + b"a" * 20, b"dc_" + b"b" * 40, b"whsec_" + b"+" * 24),
        *(b"https://user:word@host", b"https://:w@", b"://" + b"u" * 70 + b":" + b"w" * 70 + b"@"),
    ]
    found = 0
    for token in tokens * 150:
        data = bytearray(chance.choice((b"", b"n", b"ab", b"-", b"a-", b"\n")) + token * chance.randint(1, 3) + b" x")
        data[chance.randrange(len(data))] = chance.choice(b"aZ09-_:/@. \n\x1b\xc3")
        spans = masks.find(bytes(data), 0)
        assert spans == in_python.find(bytes(data), 0), data
        found += len(spans[0])
    assert found > 5 * len(tokens)


@pytest.mark.parametrize("text", [b"eyJ", b"://", b"://a:", b"sk-", b"xoxb-", b"gl_", b"dc_gl_", b"AKIA"])
def test_a_flood_of_what_secrets_begin_with_takes_bounded_time(module: OutputModule, text: bytes) -> None:
    """64 bytes are looked at for each, however long the word is that all are in."""
    masks = Masks.of([], DEFAULT_PATTERNS)
    flood = text * ((1 << 20) // len(text))
    begun = time.thread_time()
    masks.find(flood, 0)
    assert time.thread_time() - begun < 3


def test_the_same_secrets_are_found(module: OutputModule, chance: random.Random) -> None:
    values = [chance.randbytes(12).hex(), "pa12!x", "Bien s\xfbr \u4e2d\u6587", "UPPER-lower-7"]
    masks = Masks.of(values, [*DEFAULT_PATTERNS, r"tok_[a-z0-9]{4,}", r"(?:one|other) secret"])
    in_python = replace(masks, search=Prefilters(masks.secrets).search)
    parts = [
        *(value.encode() for value in values),
        *(b"ghp_" + b"a1" * 12, b"tok_abcd9", b"https://u:word@host/", b"other secret", b"AKIA" + b"Z" * 16),
        *(b"\x1b[1m", b"\n", b" ", b"=", b"plain text", b"eyJ", b"sk-"),
        *(
            b"-----BEGIN RSA PRIVATE KEY-----",
            b"\nMIIEpAIBAAKCAQEA7\n",
            b"-----END RSA PRIVATE KEY-----",
            b"PRIVATE KEY----",
        ),
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
