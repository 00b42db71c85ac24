"""Recordings as casts: the times of both versions, the exit status."""

import json
from typing import Any

from backend.core.recording.asciicast import AsciicastWriter
from tests.core.recording.recorded import record


def cast(version: int) -> list[Any]:
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
