"""What reaches a viewer's terminal: text and colours, and nothing that acts."""

import re
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.core.recording.terminal_filter import STRING_LIMIT, TerminalFilter

COLOURS = [
    b"\x1b[m",
    b"\x1b[0m",
    b"\x1b[1;31m",
    b"\x1b[38;5;196m",
    b"\x1b[38;2;1;2;3m",
    b"\x1b[38:2::1:2:3m",
    b"\x1b[4:3m",
    b"\x1b[;;m",
    b"\x1b[48;5;22;1;4;9m",
    b"\x1b[97;104m",
]
IN_LINE = [b"\x1b[K", b"\x1b[0K", b"\x1b[1K", b"\x1b[2K", b"\x1b[G", b"\x1b[1G", b"\x1b[0120G"]
PAYLOADS = [
    b"0;owned",
    b"52;c;cm0gLXJmIC8=",
    b"8;;http://evil.test",
    b"1337;File=:AAAA",
    b'$q"p',
    b"+q544e",
    b"\xe2\x82\xac",
    b"",
]
STRINGS = [
    begin + payload + end
    for begin, payload, end in product(
        [b"\x1b]", b"\x1bP", b"\x1b_", b"\x1b^", b"\x1bX", b"\xc2\x9d", b"\xc2\x90", b"\xc2\x9f"],
        PAYLOADS,
        [b"\x07", b"\x1b\\", b"\xc2\x9c"],
    )
]
CSI = [
    begin + body
    for begin in (b"\x1b[", b"\xc2\x9b")
    for body in (
        *(
            b"2J",
            b"H",
            b"1;1H",
            b"3A",
            b"3K",
            b"1;2K",
            b"?K",
            b"12345G",
            b"1;1G",
            b"6n",
            b"5n",
            b"?6n",
            b"c",
            b">c",
            b"=c",
            b"21t",
            b"20t",
            b"11t",
        ),
        *(b"?1049h", b"?2004h", b"?25l", b"?1000h", b"20h", b"4h", b"!p", b'1"q', b"2 q", b"s", b"u", b"1;5r", b"3L"),
        *(b"100S", b"1000b", b"5i", b"4i", b">4;2m", b"?4m", b"1<m", b"#{", b"1$}", b"?1;2S", b"0x", b"1;1;1;1;1T"),
    )
]
ESCAPES = [b"\x1b" + bytes([final]) for final in range(0x30, 0x7F) if final not in b"[]PX^_"]
OTHERS = [
    *(b"\x1b(B", b"\x1b(0", b"\x1b#8", b"\x1b%G", b"\x1b F", b"\x1b\x1b[2J", b"\x1b\x1b]0;x\x07", b"\x1b", b"\x1b["),
    *(b"\x1b[1;\x002J", b"\x1b[\n2J", b"\x1b[1;1\x1b[2J", b"\x1b]0;a\x1b[2Jb\x07", b"\x1bPtmux;\x1b\x1b]0;x\x07\x1b\\"),
    *(
        b"\x1b]0;x\x18\x1b[2J",
        b"\x1b\x00[2J",
        b"\xc2\x00\x9b2J",
        b"\xc2\x1b[2J\x9b2J",
        b"\x9b2J",
        b"\x9d0;x\x07",
        b"\xc2\x9bK",
        b"\xc2\x9b1G",
        b"\x1b[\x00K",
        b"\x85",
    ),
    *(bytes([code]) for code in range(0x20) if code not in b"\t\n\r\b\x1b"),
    *(bytes([0xC2, code]) for code in range(0x80, 0xA0)),
    *(sign.encode() for sign in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\x7f"),
    *(b"\xe2\x00\x80\xae", b"\xe2\x80\x1b[2J\xae", b"\x1b[" + b"1;" * 400 + b"H", b"\x1b[3\x1b[1mJ"),
]
HOSTILE = STRINGS + CSI + ESCAPES + OTHERS
ACTIVE = re.compile("[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
READS = st.lists(
    st.one_of(
        st.sampled_from(HOSTILE),
        st.sampled_from(COLOURS + IN_LINE),
        st.binary(max_size=8),
        st.text(max_size=8).map(str.encode),
    ),
    max_size=12,
).map(b"".join)


def passed(*reads: bytes) -> bytes:
    found = TerminalFilter()
    return b"".join([*map(found.feed, reads), found.finish()])


def active(output: bytes) -> list[str]:
    """What a terminal would act on, colours and what stays inside a line aside."""
    return ACTIVE.findall(re.sub(r"\x1b\[(?:[0-9;:]*m|[012]?K|[0-9]{0,4}G)", "", output.decode()))


def test_there_are_many_hostile_sequences() -> None:
    assert len(set(HOSTILE)) >= 400


@pytest.mark.parametrize("sequence", HOSTILE, ids=repr)
def test_a_hostile_sequence_split_anywhere_is_dropped(sequence: bytes) -> None:
    whole = b"before" + sequence + b" after\n"
    expected = passed(whole)
    assert active(expected) == []
    assert expected.startswith(b"before")
    for cut in range(len(whole) + 1):
        assert passed(whole[:cut], whole[cut:]) == expected


@pytest.mark.parametrize("sequence", STRINGS + CSI, ids=repr)
def test_what_a_sequence_carries_goes_with_it(sequence: bytes) -> None:
    assert passed(b"before" + sequence + b" after") == b"before after"


@pytest.mark.parametrize("colour", COLOURS + IN_LINE, ids=repr)
def test_a_colour_and_what_stays_in_the_line_split_anywhere_is_kept(colour: bytes) -> None:
    whole = b"a" + colour + "é".encode() + colour + b"\n"
    for cut in range(len(whole) + 1):
        assert passed(whole[:cut], whole[cut:]) == whole


def test_text_passes_as_it_is() -> None:
    text = 'tab\t back\b\b return\r\n é → 日本語 🙂 \u200d\u00a0\ufeff "quoted" \\ \ufffd\n'.encode()
    assert passed(text) == text
    assert passed(*(text[at : at + 1] for at in range(len(text)))) == text


@given(READS, st.lists(st.integers(0, 120), max_size=6))
@settings(max_examples=300)
def test_reads_cut_anywhere_give_the_same(whole: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(whole)]
    reads = [whole[start:end] for start, end in pairwise(edges)]
    assert passed(*reads) == passed(whole)
    assert passed(*(whole[at : at + 1] for at in range(len(whole)))) == passed(whole)
    assert active(passed(whole)) == []


def test_bytes_that_are_not_utf8_become_the_sign_for_it() -> None:
    assert passed(b"a\xffb\xe9c\xf0\x9f\x98").decode() == "a\ufffdb\ufffdc\ufffd"
    assert passed(b"lone \x93quotes\x94").decode() == "lone quotes"


@pytest.mark.parametrize("step", [1, 100, 5000])
def test_a_string_without_end_is_dropped_up_to_its_limit(step: int) -> None:
    whole = b"a\x1b]0;" + b"x" * STRING_LIMIT + b" text again\n"
    assert passed(*(whole[at : at + step] for at in range(0, len(whole), step))) == b"axx text again\n"


def test_only_what_may_be_a_sequence_is_held_back() -> None:
    found = TerminalFilter()
    assert [found.feed(data) for data in (b"text", b"more\x1b", b"[1", b"mred", b"\xc3", b"\xa9")] == [
        *(b"text", b"more", b"", b"\x1b[1mred", b"", "é".encode())
    ]
    assert found.finish() == b""


def test_a_sequence_cut_off_by_the_end_is_dropped() -> None:
    assert passed(b"text\x1b]0;title") == b"text"
    assert passed(b"text\x1b[3") == b"text"
