"""Recordings read back in slices: the same text however it is cut, and no more of a long one read than must be."""

import itertools
from collections.abc import Callable

import pytest

from backend.core.recording.lines import Lines, encode_lines
from backend.core.recording.reader import Send
from backend.core.recording.sanitized import sanitizing
from backend.core.recording.transcript import REACH, SEGMENT, Index, Read, Slice, read_slice
from backend.core.recording.writer import Recorder
from tests.core.recording.recorded import COMPLETE, ID, STARTED, Log

BOTH = frozenset({"stdout", "stderr"})
STREAMS = [frozenset({"stdout"}), frozenset({"stderr"}), BOTH]
NUMBERS = "".join(f"{number}\n" for number in range(7000)).encode()
# Plain text, quotes and backslashes, characters of several bytes, blank lines, bytes that are none.
READS = [NUMBERS, b'say "it" \\o/\n' * 2000, "a\u00e9\u20ac\U0001f389\n\n".encode() * 2500, b"\xff\xfe\n" * 3000]


class Recorded:
    """A recording in memory; `sent` is how many of its bytes were read."""

    def __init__(self, view: Callable[[Send], Send] = lambda send: send) -> None:
        self.log, self.view, self.sent = Log(), view, 0
        self.recorder = Recorder(ID, self.log, lambda: 0.0)
        self.recorder.add(STARTED)

    def write(self, rounds: int) -> None:
        for number, data in zip(range(rounds), itertools.cycle(READS), strict=False):
            self.recorder.lines("stderr" if number % 3 == 2 else "stdout", encode_lines(data))

    async def read(self, send: Send, begin: int, end: int | None) -> int | None:
        """As a recording of the store does, in blocks of a few lines."""
        stop = self.log.stored.rfind(b"\n", 0, end) + 1
        lines = self.log.stored[begin : max(stop, begin)].splitlines(keepends=True)
        for at in range(0, len(lines), 3):
            block = b"".join(lines[at : at + 3])
            self.sent += len(block)
            await self.view(send)(block)
        return max(stop, begin)


async def sliced(read: Read, index: Index, streams: frozenset[str], offset: int = 0, limit: int = 1 << 40) -> Slice:
    part = Slice(streams, offset, limit)
    assert await read_slice(read, index, part)
    return part


async def text(read: Read, index: Index, streams: frozenset[str], limit: int) -> str:
    """All slices together."""
    offset, data = 0, ""
    while True:
        part = await sliced(read, index, streams, offset, limit)
        if not part.data:
            assert offset == part.total
            return data
        assert part.next_offset - offset == len(part.data.encode())
        data, offset = data + part.data, part.next_offset


@pytest.mark.parametrize("streams", STREAMS, ids=lambda streams: "+".join(sorted(streams)))
async def test_the_slices_together_are_the_whole(streams: frozenset[str]) -> None:
    recorded, index = Recorded(), Index()
    recorded.write(120)
    recorded.recorder.end(COMPLETE)
    whole = await sliced(recorded.read, Index(), streams)
    direct = Slice(streams, 0, 1 << 40)
    await direct.add(recorded.log.stored)
    assert (whole.data, whole.total, whole.ended) == (direct.data, direct.total, True)
    for limit in (250_001, 1 << 20):
        assert await text(recorded.read, index, streams, limit) == direct.data
    assert len(index.marks) > 2


async def test_it_is_the_whole_while_it_grows() -> None:
    recorded, index, offset, data = Recorded(), Index(), 0, ""
    for _ in range(40):
        recorded.write(7)
        part = await sliced(recorded.read, index, BOTH, offset)
        assert not part.ended
        data, offset = data + part.data, part.next_offset
    recorded.recorder.lines("stdout", Lines(b'"end"', 1, partial=True))
    recorded.recorder.end(COMPLETE)
    rest = await sliced(recorded.read, index, BOTH, offset)
    assert (rest.data, rest.ended) == ("end", True)
    assert data + rest.data == (await sliced(recorded.read, Index(), BOTH)).data


async def test_a_slice_of_a_long_recording_reads_little_of_it() -> None:
    recorded, index = Recorded(), Index()
    recorded.write(400)
    length = len(recorded.log.stored)
    assert length > 8 * REACH
    total = (await sliced(recorded.read, index, BOTH, 0, 1000)).total
    for offset in range(0, total + 5000, total // 20):
        recorded.sent = 0
        part = await sliced(recorded.read, index, BOTH, offset, 1000)
        assert part.total == total
        # The stretches with the slice, and twice what no mark stands behind.
        assert recorded.sent <= 2 * REACH + 2 * SEGMENT


async def test_an_end_at_a_mark_is_an_end() -> None:
    recorded, index = Recorded(), Index()
    while len(recorded.log.stored) < SEGMENT:
        recorded.write(1)
    recorded.recorder.end(COMPLETE)
    for _ in range(2):
        part = await sliced(recorded.read, index, BOTH)
        assert part.ended
        assert part.total == len(part.data.encode())
    assert index.marks[-1].ended


async def test_what_is_filtered_on_its_way_is_cut_the_same_each_time() -> None:
    """A sequence that begins before a mark and ends behind it makes no two reads differ."""
    recorded, index = Recorded(sanitizing), Index()
    for _ in range(60):
        recorded.recorder.lines("stdout", encode_lines(NUMBERS + b"\x1b]0;ti\n"))
        recorded.recorder.lines("stdout", encode_lines(b"tle\x07shown\n" * 100))
    whole = await sliced(recorded.read, Index(), BOTH)
    assert "\x07" not in whole.data
    assert await text(recorded.read, index, BOTH, 350_001) == whole.data
    assert len(index.marks) > 2


async def test_without_a_recording_there_is_nothing() -> None:
    async def nothing(send: Send, begin: int, end: int | None) -> None:
        return None

    part = Slice(BOTH, 0, 1000)
    assert not await read_slice(nothing, Index(), part)
    assert (part.data, part.total, part.ended) == ("", 0, False)
