"""Stored lines: numbers without a gap, cut at any of them, taken apart and put together."""

import json
from itertools import cycle
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from backend.core.recording.batches import after, first_seq, last_seq, read_batch
from backend.core.recording.messages import SERVER_MESSAGE
from backend.core.recording.transcript import output_of
from tests.core.recording.recorded import record


def one_by_one(stored: bytes) -> list[dict[str, Any]]:
    """The messages that a client gets without batches."""
    messages: list[dict[str, Any]] = []
    for line in stored.splitlines():
        batch = read_batch(line)
        messages += map(json.loads, batch.messages() if batch else [line])
    return messages


LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=12)
OUTPUTS = st.lists(st.lists(LINES | st.sampled_from(['","', "\\", '\\"', '"']), min_size=1, max_size=6), max_size=5)


@given(OUTPUTS)
@settings(max_examples=300)
def test_every_message_has_the_next_number_and_is_of_the_protocol(outputs: list[list[str]]) -> None:
    messages = one_by_one(record(outputs))
    assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
    assert [message["line"] for message in messages if "line" in message] == [
        text for texts in outputs for text in texts
    ]
    for message in messages:
        assert SERVER_MESSAGE.validate_python(message).type == message["type"]


@given(OUTPUTS)
@settings(max_examples=150)
def test_cut_after_any_number_the_rest_is_the_rest(outputs: list[list[str]]) -> None:
    stored = record(outputs)
    whole = one_by_one(stored)
    for seq in range(len(whole) + 2):
        assert one_by_one(after(stored, seq)) == whole[seq:]


def test_the_number_is_not_read_from_the_command() -> None:
    assert first_seq(record([]).splitlines()[0]) == 1


def test_a_batch_is_written_as_it_was_stored() -> None:
    line = record([["a", 'b"']]).splitlines()[1]
    batch = read_batch(line)
    assert batch
    assert batch.encode() == line


@given(OUTPUTS)
@settings(max_examples=100)
def test_the_output_of_a_block_is_what_was_written(outputs: list[list[str]]) -> None:
    streams = cycle(["stdout", "stderr"])
    written = [(next(streams), "".join(f"{text}\n" for text in texts).encode()) for texts in outputs]
    assert list(output_of(record(outputs))) == written


@given(OUTPUTS)
@settings(max_examples=100)
def test_the_last_number_of_a_block_is_that_of_its_last_line(outputs: list[list[str]]) -> None:
    stored = record(outputs)
    messages, block = one_by_one(stored), b""
    for line in stored.splitlines(keepends=True):
        block += line
        assert last_seq(block) == len(one_by_one(block))
    assert last_seq(block) == messages[-1]["seq"]
    assert last_seq(b"") == 0
