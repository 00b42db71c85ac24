"""Recordings in memory and as files: followed from any point, live, by any number of viewers."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from backend.core.errors import RecordingError
from backend.core.recording.batches import read_batch
from backend.core.recording.digest import RecordingDigest
from backend.core.recording.lines import encode_lines
from backend.core.recording.lost import LOST
from backend.core.recording.messages import Problem
from backend.core.recording.reader import Send
from backend.core.recording.writer import Recorder, RecordingLog
from backend.storage.memory.recordings import MemoryRecordings
from backend.storage.recordings import FileRecordings
from tests.core.recording.recorded import COMPLETE, STARTED

ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
OTHER = "01BRZ3NDEKTSV4RRFFQ69G5FAV"
LATE = Problem(message="Another server was first.", rule="server.lost")

Recordings = FileRecordings | MemoryRecordings


@pytest.fixture(params=["memory", "files"])
def recordings(request: pytest.FixtureRequest, tmp_path: Path) -> Recordings:
    return MemoryRecordings() if request.param == "memory" else FileRecordings(tmp_path / "recordings")


L = TypeVar("L", bound=RecordingLog, covariant=True)


class Creates(Protocol[L]):
    """Where a recording is begun."""

    def create(self, execution: str) -> L: ...


def write(recordings: Creates[L], batches: int = 50, *, end: bool = True, id: str = ID) -> L:
    log = recordings.create(id)
    recorder = Recorder(id, log, lambda: 0.0)
    recorder.add(STARTED)
    for number in range(batches):
        data = "".join(f"{number}-{line}\n" for line in range(number % 7 * 100 + 1))
        recorder.lines("stdout", encode_lines(data.encode()))
    if end:
        recorder.end(COMPLETE)
    return log


async def read(log: RecordingLog, after_seq: int = 0) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []

    async def send(block: bytes) -> None:
        assert block.endswith(b"\n")
        for line in block.splitlines():
            batch = read_batch(line)
            messages.extend(map(json.loads, batch.messages() if batch else [line]))

    await log.follow(after_seq, send)
    return messages


async def test_it_is_followed_from_every_number(recordings: Recordings) -> None:
    whole = await read(write(recordings))
    assert [message["seq"] for message in whole] == list(range(1, len(whole) + 1))
    found = recordings.find(ID)
    assert found
    for seq in [*range(0, len(whole) + 3, 331), len(whole) - 1, len(whole)]:
        assert await read(found, seq) == whole[seq:]


async def test_a_stretch_is_whole_lines_between_two_places(recordings: Recordings) -> None:
    log, everything = write(recordings), list[bytes]()
    await log.copy(_into(everything))
    stored = b"".join(everything)
    places = [0, *(at + 1 for at, byte in enumerate(stored) if byte == 10)]
    for begin in places[::9]:
        for end in (begin, begin + 10, begin + 700, places[-2], len(stored), len(stored) + 99):
            blocks: list[bytes] = []
            stop = await log.copy(_into(blocks), begin, end)
            assert stop == max(place for place in places if place <= max(begin, end))
            assert b"".join(blocks) == stored[begin:stop]


def _into(blocks: list[bytes]) -> Send:
    async def send(block: bytes) -> None:
        blocks.append(block)

    return send


async def test_many_viewers_see_the_same_while_it_grows(recordings: Recordings) -> None:
    log = recordings.create(ID)
    recorder = Recorder(ID, log, lambda: 0.0)
    viewers = [asyncio.create_task(read(log, seq)) for seq in (0, 0, 5, 700)]
    recorder.add(STARTED)
    for number in range(300):
        recorder.lines("stdout", encode_lines(f"{number}\n{'x' * (number * 300)}\n\n".encode()))
        await asyncio.sleep(0)
    recorder.end(COMPLETE)
    whole, *others = await asyncio.gather(*viewers)
    assert len(whole) == 902
    assert others == [whole, whole[5:], whole[700:]]


def test_what_is_not_kept_is_not_found(recordings: Recordings) -> None:
    for name in (ID, "", "../x", ID.lower(), "x" * 300, f"{ID}\0"):
        assert recordings.find(name) is None


def test_an_id_is_taken_once(recordings: Recordings) -> None:
    recordings.create(ID)
    with pytest.raises(RecordingError, match="File exists"):
        recordings.create(ID)
    recordings.create(OTHER)


async def test_what_was_only_begun_is_gone_when_it_is_discarded(recordings: Recordings) -> None:
    recordings.create(ID).discard()
    assert recordings.find(ID) is None
    recordings.create(ID)


async def test_its_end_is_read_once_it_has_one(recordings: Recordings) -> None:
    assert recordings.last_message(ID) == {}
    assert recordings.seal(ID) is None
    log = write(recordings, end=False)
    assert recordings.last_message(ID) is None
    recorder = Recorder(ID, log, lambda: 0.0)
    sealed = recorder.seal(COMPLETE)
    assert recordings.last_message(ID) is None
    recorder.end()
    assert (recordings.last_message(ID) or {})["status"] == "succeeded"
    assert recordings.seal(ID) == sealed
    everything: list[bytes] = []
    await log.copy(_into(everything))
    assert sealed == RecordingDigest(len(b"".join(everything)), hashlib.sha256(b"".join(everything)).hexdigest())


async def test_a_sealed_end_is_shown_once_it_is_on_record_and_another_may_take_its_place(
    recordings: Recordings,
) -> None:
    for id, instead in ((ID, ()), (OTHER, (LATE, LOST))):
        log = recordings.create(id)
        recorder, seen = Recorder(id, log, lambda: 0.0), list[bytes]()
        recorder.add(STARTED)
        recorder.seal(COMPLETE)
        elsewhere = FileRecordings(recordings.folder) if isinstance(recordings, FileRecordings) else recordings
        for viewer in (log, elsewhere.find(id)):
            assert viewer
            await viewer.copy(_into(seen))
        assert b"".join(seen).count(b'"type"') == 2, "twice the first line alone"
        recorder.end(*instead)
        shown = await read(log)
        assert [message["seq"] for message in shown] == list(range(1, len(shown) + 1))
        assert [message.get("status") or message["type"] for message in shown[1:]] == (
            ["error", "lost"] if instead else ["succeeded"]
        )


async def test_a_block_is_whole_lines_and_a_long_line_is_one_block(recordings: Recordings) -> None:
    log, long = recordings.create(ID), b"x" * 100_000 + b"\n"
    log.append(long)
    for _ in range(3000):
        log.append(b"a line of some length\n")
    blocks: list[bytes] = []
    assert await log.copy(_into(blocks)) == len(long) + 3000 * 22
    assert blocks[0].startswith(long)
    assert 1 < len(blocks) < 10
    assert all(block.endswith(b"\n") for block in blocks)


async def test_one_that_was_left_is_written_on_without_a_gap(recordings: Recordings) -> None:
    """What it holds is numbered once more and not stored again, wherever the server before had stopped."""
    whole = write(recordings, 5, id=OTHER)
    log = write(recordings, 3, end=False)
    log.leave()
    assert (await read(log))[-1]["seq"] == 304
    resumed = recordings.resume(ID)
    assert (resumed.seq, resumed.ms, resumed.timeout) == (304, 0, STARTED.timeout)
    recorder = Recorder(ID, resumed.log, lambda: 0.0, resumed=resumed)
    recorder.begin(STARTED)
    for data in (b"0-0\n", b"".join(b"1-%d\n" % line for line in range(101)), None):
        pieces = (
            [data] if data else [b"".join(b"%d-%d\n" % (n, line) for line in range(n % 7 * 100 + 1)) for n in (2, 3, 4)]
        )
        for piece in pieces:
            recorder.lines("stdout", encode_lines(piece))
    recorder.end(COMPLETE)
    assert [each | {"execution": ID} for each in await read(whole)] == await read(resumed.log)


async def test_one_that_was_resumed_is_not_discarded_and_ends_behind_what_it_holds(recordings: Recordings) -> None:
    write(recordings, 2, end=False).leave()
    recordings.resume(ID).log.discard()
    resumed = recordings.resume(ID)
    recorder = Recorder(ID, resumed.log, lambda: 0.0, resumed=resumed)
    recorder.begin(STARTED)
    sealed = recorder.seal(COMPLETE)
    recorder.end()
    stored = await read(resumed.log)
    assert [each["seq"] for each in stored] == list(range(1, len(stored) + 1))
    assert stored[-1]["type"] == "complete"
    assert sealed == recordings.seal(ID)


def test_one_that_is_not_there_is_begun(recordings: Recordings) -> None:
    resumed = recordings.resume(ID)
    assert (resumed.seq, resumed.ms, resumed.timeout) == (0, 0, None)
    resumed.log.discard()
    assert recordings.find(ID) is None


async def test_a_half_line_is_removed_before_a_file_is_written_on(tmp_path: Path) -> None:
    recordings = FileRecordings(tmp_path / "recordings")
    log = write(recordings, 2, end=False)
    log.leave()
    with Path(log.path).open("ab") as file:
        file.write(b'{"type":"stdout","exec')
    with pytest.raises(RecordingError, match="resumed"):
        held = recordings.resume(ID)
        FileRecordings(tmp_path / "recordings").resume(ID)
    assert held.seq == 103
    recorder = Recorder(ID, held.log, lambda: 0.0, resumed=held)
    sealed = recorder.seal(COMPLETE)
    recorder.end()
    assert [each["seq"] for each in await read(log)] == list(range(1, 105))
    assert sealed == recordings.seal(ID)
