"""Lines that were overwritten: the same bytes from C and from Python, and what a terminal would show."""

import random
import sys
from collections.abc import Callable

import pytest

from backend.core.recording import native
from backend.core.recording.lines import encode_in_python
from backend.core.recording.native import OutputModule
from backend.transports import overwritten
from backend.transports.overwritten import overwritten_in_python, shown_in_python, shown_lines
from tests.needs import need

ROUNDS = 4000
ESC = "\x1b["
PIECES = (
    *(
        "\r",
        "\r",
        "\r\r",
        f"{ESC}G",
        f"{ESC}0G",
        f"{ESC}1G",
        f"{ESC}2G",
        f"{ESC}0001G",
        f"{ESC}12345G",
        f"{ESC}K",
        f"{ESC}2K",
    ),
    *(f"{ESC}3K", f"{ESC}31m", ESC, "\x1b", "\x1b\x1b[K[K", "[K", "G", "K", "1", "\\", "\\r", "\\u001b[K", '"', "/"),
    *(
        "a",
        "text of a line",
        "x" * 40,
        " ",
        "\t",
        "\x00",
        "\x07",
        "\x08",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x1f",
        "\x7f",
        "\x85",
        "\xa0",
    ),
    *("\xe9", "\u3000", "\u2028", "\u200b", "\u4e2d\u6587", "\U0001f600", "\ufffd"),
)
# What an encoder may write, but ours does not, and what none may.
FOREIGN = (
    *(rb"\u0041", rb"\u001B[K", rb"\/", rb"\u000d", rb"\u00e9", rb"\ud83d\ude00", rb"\ud800", rb"\u0022", rb"\u0020"),
    *(rb"\q", rb"\u00", b"\x01", b"\xff", b"\xed\xa0\x80", b"\\", b'"', b'","', b",", b'"a', b"\xc3"),
)


@pytest.fixture
def module() -> OutputModule:
    need(native.output, "a module for this machine")
    assert native.output
    return native.output


def encoded(chance: random.Random) -> bytes:
    """A few lines."""
    lines = ("".join(chance.choices(PIECES, k=chance.randint(0, 8))) for _ in range(chance.randint(1, 5)))
    return encode_in_python("".join(f"{line}\n" for line in lines).encode())[0]


def outcome(shown: Callable[[bytes], bytes], items: bytes) -> bytes | None:
    """None for ValueError."""
    try:
        return shown(items)
    except ValueError:
        return None


def test_what_ours_encodes_is_shown_alike(module: OutputModule) -> None:
    chance, changed = random.Random(5), 0
    for _ in range(ROUNDS):
        items = encoded(chance)
        assert module.shown_lines(items) == shown_in_python(items), items
        assert module.is_overwritten(items) == overwritten_in_python(items), items
        changed += module.shown_lines(items) != items
    assert ROUNDS // 4 < changed < ROUNDS  # or nothing was compared


def test_what_others_encode_is_shown_as_before(module: OutputModule) -> None:
    """In C it is shown alike or not at all, and then by the twin."""
    chance, refused = random.Random(6), 0
    for _ in range(ROUNDS):
        items = bytearray(encoded(chance))
        for _ in range(chance.randint(1, 2)):
            at = chance.randint(0, len(items))
            items[at : at + chance.randint(0, 2)] = chance.choice(FOREIGN)
        data, expected = bytes(items), outcome(shown_in_python, bytes(items))
        found = outcome(module.shown_lines, data)
        assert found in (None, expected), data
        assert outcome(shown_lines, data) == expected, data
        assert module.is_overwritten(data) == overwritten_in_python(data), data
        refused += found is None and expected is not None
    assert refused > 50


def test_every_cut_of_lines_is_read_within_its_bounds(module: OutputModule) -> None:
    chance = random.Random(7)
    for _ in range(100):
        items = encoded(chance)
        for end in range(len(items)):
            assert outcome(shown_lines, items[:end]) == outcome(shown_in_python, items[:end]), items[:end]


def test_what_is_blank_to_python_is_blank_to_c(module: OutputModule) -> None:
    """A last version without anything to read is not shown."""
    for code in (*range(0x3100), *range(0x3100, sys.maxunicode, 499)):
        if chr(code) not in "\n\r" and not 0xD800 <= code <= 0xDFFF:
            items = b'"ab\\r' + encode_in_python(f"{chr(code)}\n".encode())[0][1:]
            assert (module.shown_lines(items) == b'"ab"') == chr(code).isspace(), hex(code)


def test_without_the_module_the_twin_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overwritten, "output", None)
    assert shown_lines(b'"10 %\\r100 %\\r"') == b'"100 %"'
