"""The writer: numbers and times by itself, lines of the service masked, nothing of the output when it is muted."""

import json

import pytest

from backend.core.errors import ShareUsedUpError
from backend.core.recording.lines import encode_lines
from backend.core.recording.writer import Recorder
from tests.core.recording.recorded import COMPLETE, ID, STARTED, Log


def messages(log: Log) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.stored.splitlines()]


def test_every_message_gets_the_next_number_and_its_time() -> None:
    log, now = Log(), iter([5.0, 5.25, 5.5, 6.0])
    recorder = Recorder(ID, log, lambda: next(now))
    recorder.add(STARTED)
    recorder.lines("stdout", encode_lines(b"one\ntwo\n"))
    recorder.end(COMPLETE)
    assert [(each["execution"], each["seq"], each["ms"]) for each in messages(log)] == [
        (ID, 1, 250),
        (ID, 2, 500),
        (ID, 4, 1000),
    ]


def test_a_line_of_the_service_is_masked_and_its_bytes_are_returned() -> None:
    log = Log()
    recorder = Recorder(ID, log, lambda: 0.0, mask=lambda text: text.replace("hunter2", "[masked]"))
    assert recorder.say("stderr", "no file hunter2") == len("no file [masked]\n")
    assert messages(log)[0]["lines"] == ["no file [masked]"]


def test_a_muted_one_stores_no_output_and_takes_no_numbers_for_it() -> None:
    log = Log()
    recorder = Recorder(ID, log, lambda: 0.0, muted=True)
    recorder.add(STARTED)
    recorder.lines("stdout", encode_lines(b"one\n"))
    recorder.end(COMPLETE)
    assert [(each["type"], each["seq"]) for each in messages(log)] == [("started", 1), ("complete", 2)]


def test_output_that_is_not_stored_takes_no_numbers_and_none_follows() -> None:
    log, room = Log(), iter([True, False, True])
    recorder = Recorder(ID, log, lambda: 0.0, count=lambda _: next(room, True))
    recorder.lines("stdout", encode_lines(b"one\n"))
    for output in (b"two\nthree\n", b"four\n"):
        with pytest.raises(ShareUsedUpError):
            recorder.lines("stdout", encode_lines(output))
    recorder.end(COMPLETE)
    assert [(each["type"], each["seq"]) for each in messages(log)] == [("stdout", 1), ("complete", 2)]
