"""Recordings: numbers without a gap, cut at any of them, taken apart and put together."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from backend.core.recording.asciicast import AsciicastWriter
from backend.core.recording.lines import encode_lines
from backend.core.recording.messages import SERVER_MESSAGE, Complete, Problem, Started
from backend.core.recording.stored import Recorder, after, first_seq, read_batch

ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
STARTED = Started(
    command='echo "seq":9',
    argv=("echo", '"seq":9'),
    risk="safe",
    rule="allow.echo",
    cwd="/srv",
    time="2026-01-02T03:04:05.678Z",
    timeout=60,
    dry_run=False,
)
COMPLETE = Complete(
    status="succeeded",
    exit_code=0,
    signal=None,
    duration_ms=5,
    timed_out=False,
    truncated=False,
    stdout_bytes=1,
    stderr_bytes=0,
)


class Log:
    """Keeps what is recorded in memory."""

    def __init__(self) -> None:
        self.stored = b""

    def append(self, line: bytes) -> None:
        self.stored += line

    end = append

    async def follow(self, after_seq: int, send: object) -> None:
        raise NotImplementedError


def record(outputs: list[list[str]]) -> bytes:
    log, now = Log(), iter(range(1000))
    recorder = Recorder(ID, log, lambda: next(now) / 10)
    recorder.add(STARTED)
    for number, texts in enumerate(outputs):
        data = "".join(f"{text}\n" for text in texts).encode()
        recorder.lines("stderr" if number % 2 else "stdout", encode_lines(data))
    recorder.add(Problem(message="x", rule="y"))
    recorder.end(COMPLETE)
    return log.stored


def one_by_one(stored: bytes) -> list[dict]:
    """The messages that a client gets without batches."""
    messages = []
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


def cast(version: int) -> list:
    writer = AsciicastWriter(3 if version == 3 else 2)
    return [json.loads(line) for line in writer.convert(record([["one"], ["two"]])).splitlines()]


def test_version_2_counts_from_the_start() -> None:
    header, *events = cast(2)
    assert (header["version"], header["width"], header["height"], header["timestamp"]) == (2, 80, 24, 1767323045)
    assert [(code, data) for _, code, data in events] == [("o", "one\r\n"), ("o", "two\r\n"), ("m", "x")]
    times = [time for time, _, _ in events]
    assert times == sorted(times)


def test_version_3_counts_from_the_event_before_and_tells_the_exit() -> None:
    header, *events = cast(3)
    assert header["term"] == {"cols": 80, "rows": 24}
    assert events[-1][1:] == ["x", "0"]
    assert sum(time for time, _, _ in events) < cast(2)[-1][0] + 0.3
