"""Bytes into lines: nothing lost, however the reads fall."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from backend.core.recording.lines import LINE_LIMIT, LineAssembler, Lines, encode_lines
from backend.core.recording.redaction import DEFAULT_PATTERNS, Masks
from backend.core.recording.terminal_filter import TerminalFilter

MASKS = Masks.of(["hunter2-Pa55w0rd"], DEFAULT_PATTERNS)
TEXTS = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=30).map(str.encode),
    st.sampled_from(
        [b"\n", b"\n\n", b'","', b"\\", b'\\"', b"\r", b"\t", b"\x1b[1m", b"plain line\n", "é".encode()[:1]]
    ),
)


def texts(lines: Lines) -> list[str]:
    found: list[str] = json.loads(b"[" + lines.items + b"]")
    assert len(found) == lines.count
    return found


def rejoin(parts: list[Lines]) -> str:
    return "".join(text if part.partial else f"{text}\n" for part in parts for text in texts(part))


@given(st.lists(TEXTS, max_size=20), st.integers(0, 3))
@settings(max_examples=300)
def test_reads_cut_anywhere_give_the_same_text(reads: list[bytes], flush_every: int) -> None:
    assembler, parts = LineAssembler(), []
    for number, data in enumerate(reads):
        if data:
            parts += assembler.feed(data)
        if flush_every and number % flush_every == 0:
            parts += assembler.flush()
    parts += assembler.flush(final=True)
    assert rejoin(parts) == b"".join(reads).decode("utf-8", "replace")
    assert not assembler.pending


@given(st.binary(max_size=200).map(lambda data: data + b"\n"))
def test_lines_are_encoded_as_json_strings(ended: bytes) -> None:
    assert rejoin([encode_lines(ended)]) == ended.decode("utf-8", "replace")
    assert b"\n" not in encode_lines(ended).items


def test_a_plain_block_and_an_odd_one_are_encoded_alike() -> None:
    assert encode_lines(b"a\n\n b \n").items == b'"a",""," b "'
    assert texts(encode_lines(b'a\n"q"\\\x00\x1f\xff\n')) == ["a", '"q"\\\x00\x1f\ufffd']


def test_a_character_in_two_reads_stays_whole() -> None:
    assembler = LineAssembler()
    first, second = "é".encode()[:1], "é".encode()[1:]
    assert assembler.feed(b"x" + first) == []
    assert [texts(part) for part in assembler.flush()] == [["x"]]
    assert assembler.pending
    assert [texts(part) for part in assembler.feed(second + b"\n")] == [["é"]]


def test_a_line_without_end_is_passed_on_in_parts() -> None:
    assembler, parts = LineAssembler(), []
    for _ in range(3 * LINE_LIMIT // 32768 + 1):
        parts += assembler.feed(b"x" * 32768)
    assert [part.partial for part in parts] == [True, True, True]
    assert all(len(part.items) <= LINE_LIMIT + 32768 + 2 for part in parts)


def transformed() -> LineAssembler:
    return LineAssembler(TerminalFilter(), MASKS.stream())


@given(st.lists(TEXTS, max_size=20), st.booleans())
@settings(max_examples=300)
def test_transformed_reads_cut_anywhere_give_the_same_text(reads: list[bytes], flushed: bool) -> None:
    whole, cut, parts = transformed(), transformed(), []
    for data in reads:
        parts += cut.feed(data)
        if flushed:
            parts += cut.flush()
    parts += cut.flush(final=True)
    assert rejoin(parts) == rejoin(whole.feed(b"".join(reads)) + whole.flush(final=True))
    assert not cut.pending


def test_a_sequence_within_a_secret_does_not_hide_it() -> None:
    whole = b"a hunter2\x1b]0;x\x07-Pa5\x005w\x1b[1m0rd b\n"
    for at in range(len(whole) + 1):
        assembler = transformed()
        parts = assembler.feed(whole[:at]) + assembler.feed(whole[at:]) + assembler.flush(final=True)
        assert rejoin(parts) == "a [masked]\x1b[1m b\n"


def test_a_prompt_is_passed_on_and_the_start_of_a_secret_waits() -> None:
    assembler = transformed()
    assert assembler.feed(b"one\nPassword: ") == [Lines(b'"one"', 1)]
    assert assembler.pending
    assert assembler.flush() == [Lines(b'"Password: "', 1, partial=True)]
    assert not assembler.pending
    assert assembler.feed(b"hunter2\x1b[") == []
    assert assembler.flush() == []
    assert assembler.pending
    assert assembler.flush(final=True) == [Lines(b'"hunter2"', 1, partial=True)]
    assert not assembler.pending


def test_a_transformed_line_without_end_is_passed_on_in_parts() -> None:
    assembler, parts = transformed(), []
    for _ in range(20):
        parts += assembler.feed(b"x" * 32768)
    assert len(parts) >= 6
    assert all(part.partial and len(part.items) <= 2 * LINE_LIMIT for part in parts)
    parts += assembler.flush(final=True)
    assert rejoin(parts) == "x" * 20 * 32768
