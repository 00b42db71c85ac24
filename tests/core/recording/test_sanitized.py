"""Viewers of a raw recording: harmless text, unchanged numbers."""

import json
from typing import Any

from backend.core.recording.lines import encode_lines
from backend.core.recording.sanitized import sanitizing
from backend.core.recording.writer import Recorder
from backend.storage.memory.recordings import MemoryRecordings
from tests.core.recording.recorded import ID


async def filtered(*reads: bytes) -> list[tuple[int, list[str]]]:
    log = MemoryRecordings().create(ID)
    got: list[dict[str, Any]] = []
    recorder = Recorder(ID, log, lambda: 0.0)
    for read in reads:
        recorder.lines("stdout", encode_lines(read))

    async def send(block: bytes) -> None:
        got.extend(map(json.loads, block.splitlines()))

    await log.copy(sanitizing(send))
    return [(message["seq"], message["lines"]) for message in got]


async def test_sequences_go_and_numbers_stay() -> None:
    assert await filtered(b"\x1b[31mred\x1b[0m\n\x1b]0;title\x07plain\n\x1b[2Jgone\n", b"next\n") == [
        (1, ["\x1b[31mred\x1b[0m", "plain", "gone"]),
        (4, ["next"]),
    ]


async def test_a_sequence_over_several_lines_takes_none_of_them_away() -> None:
    assert await filtered(b"a\x1b]52;c;\n", b"payload\x07b\n") == [(1, ["a"]), (2, ["b"])]
