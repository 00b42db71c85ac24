"""Recordings as files: written by several processes, mended, pruned."""

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.core.errors import RecordingError
from backend.core.recording.lines import encode_lines
from backend.core.recording.reader import RecordingReader
from backend.core.recording.writer import Recorder
from backend.storage import recordings
from backend.storage.modes import open_own
from backend.storage.recordings import FileRecordings
from tests.client import BOUND
from tests.core.recording.recorded import COMPLETE, STARTED
from tests.serving import ROOT
from tests.storage.contract.test_recordings import ID, OTHER, read, write
from tests.unprivileged import unprivileged

# Another server: writes a recording, a step for each line that it reads.
ELSEWHERE = """
import sys
from pathlib import Path
from backend.storage.recordings import FileRecordings
from tests.storage.test_recordings import COMPLETE, ID, STARTED, Recorder, encode_lines
log = FileRecordings(Path(sys.argv[1])).create(ID)
recorder = Recorder(ID, log, lambda: 0.0)
recorder.add(STARTED)
print(flush=True)
for line in sys.stdin:
    if line == "end\\n":
        recorder.end(COMPLETE)
    else:
        recorder.lines("stdout", encode_lines(line.encode()))
"""


@pytest.fixture
def folder(tmp_path: Path) -> FileRecordings:
    return FileRecordings(tmp_path / "recordings")


def test_an_empty_one_whose_server_died_is_begun(folder: FileRecordings) -> None:
    folder.create(ID).leave()
    folder.create(ID).append(b"{}\n")


def test_one_that_holds_something_or_is_written_is_not_begun_again(folder: FileRecordings) -> None:
    log = folder.create(ID)
    with pytest.raises(RecordingError, match="exists"):
        folder.create(ID)
    log.append(b"{}\n")
    log.leave()
    with pytest.raises(RecordingError, match="exists"):
        folder.create(ID)


@pytest.mark.parametrize(
    "torn", [b"", b'{"type":"stdout","execution":"01AR', b'{"type":"complete","exec', b"\0" * 5000]
)
async def test_what_a_crash_cut_off_is_ended_as_lost(folder: FileRecordings, torn: bytes) -> None:
    log = write(folder, end=False)
    log.append(torn)
    os.close(log._fd)  # what the death of its server does
    restarted = FileRecordings(folder.folder)
    stored = Path(log.path).read_bytes()
    found = restarted.find(ID)
    assert found
    await read(found)
    assert Path(log.path).read_bytes() == stored, "who looks changes nothing"
    assert (restarted.last_message(ID) or {})["status"] == "lost"
    messages = await read(found)
    assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
    assert (messages[-2]["rule"], messages[-1]["status"]) == ("server.lost", "lost")
    again = restarted.find(ID)
    assert again
    assert await read(again) == messages


async def test_an_empty_file_is_ended_too(folder: FileRecordings) -> None:
    os.close(folder.create(ID)._fd)
    restarted = FileRecordings(folder.folder)
    assert restarted.cut_off(ID) == 0
    assert (restarted.last_message(ID) or {})["status"] == "lost"
    found = restarted.find(ID)
    assert found
    assert [message["type"] for message in await read(found)] == ["error", "complete"]


def test_they_are_measured_and_deleted_by_their_ids_and_other_files_are_left_alone(folder: FileRecordings) -> None:
    ids = [f"01ARZ3NDEKTSV4RRFFQ69G5FA{letter}" for letter in "ABC"]
    sizes = {id: Path(write(folder, 3, end=id != ids[0], id=id).path).stat().st_size for id in ids}
    for name in ("notes.txt", "x.ndjson", ".ndjson"):
        (folder.folder / name).touch()
    assert folder.sizes() == sizes
    assert [folder.is_written(id) for id in (*ids, ID)] == [True, False, False, False]
    folder.delete([ids[1], ID])
    assert folder.sizes().keys() == {ids[0], ids[2]}
    assert (folder.folder / "x.ndjson").exists()


def test_what_a_command_of_the_same_user_closed_is_opened_again() -> None:
    with unprivileged() as folder:
        data = folder / "data"
        data.mkdir()
        recordings = FileRecordings(data / "recordings")
        path = Path(write(recordings, 3).path)
        for closed in ([data], [recordings.folder], [recordings.folder, data], [path], [path, recordings.folder]):
            for each in closed:
                each.chmod(0)
            assert recordings.writable()
            assert recordings.find(ID)
            assert (recordings.last_message(ID) or {})["status"] == "succeeded"
            for each in closed:
                each.chmod(0)
            recordings.create(OTHER).discard()
        data.chmod(0o755)
        recordings.writable()
        assert stat.S_IMODE(data.stat().st_mode) == 0o755, "what others may do stays"


def test_nobody_else_may_read_it(folder: FileRecordings) -> None:
    path = Path(write(folder).path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_disk_that_takes_nothing_is_told_and_the_end_comes_from_memory(folder: FileRecordings) -> None:
    log = folder.create(ID)
    recorder = Recorder(ID, log, lambda: 0.0)
    recorder.add(STARTED)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._fd)
    os.close(full)
    with pytest.raises(RecordingError, match="No space left"):
        recorder.lines("stdout", encode_lines(b"x\n"))
    recorder.end(COMPLETE)
    assert [message["type"] for message in await read(log)] == ["started", "complete"]


async def test_what_another_server_still_writes_is_not_ended(folder: FileRecordings) -> None:
    log = write(folder, 3, end=False)
    stored = Path(log.path).read_bytes()
    assert FileRecordings(folder.folder).find(ID)
    assert Path(log.path).read_bytes() == stored


@pytest.fixture
def elsewhere(folder: FileRecordings) -> Iterator["subprocess.Popen[bytes]"]:
    words = [sys.executable, "-c", ELSEWHERE, str(folder.folder)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


async def test_what_another_process_writes_is_followed_to_its_end(
    folder: FileRecordings, elsewhere: "subprocess.Popen[bytes]"
) -> None:
    assert elsewhere.stdin
    assert folder.last_message(ID) is None
    found = folder.find(ID)
    assert found
    seen: asyncio.Queue[bytes] = asyncio.Queue()
    following = asyncio.create_task(found.follow(1, seen.put))
    for word in (b"one\n", b"two\n"):
        elsewhere.stdin.write(word)
        assert word.strip() in await asyncio.wait_for(seen.get(), 60)
        assert not following.done()
    assert folder.is_written(ID)
    elsewhere.stdin.write(b"three\nend\n")
    await asyncio.wait_for(following, 60)
    rest = b"".join(seen.get_nowait() for _ in range(seen.qsize()))
    assert rest.count(b"three") == 1
    assert rest.count(b'"status":"succeeded"') == 1
    assert (folder.last_message(ID) or {})["status"] == "succeeded"
    assert not folder.is_written(ID)


async def test_what_a_process_that_dies_wrote_is_cut_off_for_all_who_follow(
    folder: FileRecordings, elsewhere: "subprocess.Popen[bytes]"
) -> None:
    found, other = folder.find(ID), FileRecordings(folder.folder).find(ID)
    assert found
    assert other
    following = [asyncio.create_task(read(each)) for each in (found, other)]
    await asyncio.sleep(0)
    elsewhere.kill()
    elsewhere.wait()
    first, second = await asyncio.wait_for(asyncio.gather(*following), 60)
    assert first == second
    assert [message["type"] for message in first] == ["started"]
    assert folder.cut_off(ID) == 1
    folder.finish(ID, COMPLETE)
    ended = await read(found)
    assert (ended[:1], ended[1]["seq"], ended[1]["status"], len(ended)) == (first, 2, "succeeded", 2)
    assert folder.cut_off(ID) is None


class Viewer:
    """Collects the blocks that it gets."""

    def __init__(self, log: RecordingReader, after_seq: int = 0) -> None:
        self.blocks: list[bytes] = []
        self.pauses = asyncio.Event()
        self.pauses.set()
        self.got = asyncio.Event()
        self.task = asyncio.ensure_future(log.follow(after_seq, self.take))

    async def take(self, block: bytes) -> None:
        self.blocks.append(block)
        self.got.set()
        await self.pauses.wait()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(BOUND):
            while len(self.blocks) < count:
                self.got.clear()
                await self.got.wait()


async def test_the_first_line_comes_with_the_second_or_alone(folder: FileRecordings) -> None:
    log = folder.create(ID)
    recorder = Recorder(ID, log, lambda: 0.0)
    recorder.add(STARTED)
    viewer = Viewer(log)
    await asyncio.sleep(0)
    recorder.lines("stdout", encode_lines(b"x\n"))
    await viewer.until(1)
    silent = folder.create(OTHER)
    Recorder(OTHER, silent, lambda: 0.0).add(STARTED)
    waiting = Viewer(silent)
    await waiting.until(1)
    recorder.end(COMPLETE)
    silent.leave()
    await asyncio.gather(viewer.task, waiting.task)
    assert [len(block.splitlines()) for block in viewer.blocks] == [2, 1]
    assert [len(block.splitlines()) for block in waiting.blocks] == [1]


async def test_viewers_at_the_same_place_share_a_block_and_those_at_the_end_need_no_file(
    folder: FileRecordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def noted(path: str, flags: int) -> int:
        opened.append(path)
        return open_own(path, flags)

    monkeypatch.setattr(recordings, "open_own", noted)
    log = folder.create(ID)
    recorder = Recorder(ID, log, lambda: 0.0)
    recorder.add(STARTED)
    viewers = [Viewer(log) for _ in range(3)]
    await asyncio.sleep(0)
    for number in range(5):
        recorder.lines("stdout", encode_lines(b"%d\n" % number * 5000))
        await asyncio.gather(*(viewer.until(number + 1) for viewer in viewers))
    recorder.end(COMPLETE)
    await asyncio.gather(*(viewer.task for viewer in viewers))
    first, *others = (viewer.blocks for viewer in viewers)
    assert b"".join(first) == Path(log.path).read_bytes()
    assert all(one is other for each in others for one, other in zip(first[1:-1], each[1:-1], strict=True))
    assert len(opened) == 1, "by its writer"


async def test_viewers_that_began_elsewhere_come_to_the_same_blocks(folder: FileRecordings) -> None:
    log = write(folder, 400, end=False)
    viewers = [Viewer(log, seq) for seq in (0, 1234, 70_000)]
    log.leave()
    await asyncio.gather(*(viewer.task for viewer in viewers))
    first, *others = (viewer.blocks for viewer in viewers)
    assert len(first) > 9
    assert all(each[-2:] == first[-2:] and set(each[1:]) <= set(first) for each in others)


async def test_a_viewer_that_pauses_goes_on_where_it_was_and_what_is_in_memory_is_bounded(
    folder: FileRecordings,
) -> None:
    log = folder.create(ID)
    recorder = Recorder(ID, log, lambda: 0.0)
    recorder.add(STARTED)
    slow, fast = (Viewer(log) for _ in range(2))
    await asyncio.gather(slow.until(1), fast.until(1))
    slow.pauses.clear()
    for number in range(40):
        recorder.lines("stdout", encode_lines(b"%d\n" % number * 5000))
        await fast.until(number + 2)
        assert sum(map(len, log._newest.values())) <= recordings.NEWEST + 2 * recordings.FOR_EACH
    recorder.end(COMPLETE)
    slow.pauses.set()
    await asyncio.gather(slow.task, fast.task)
    assert b"".join(slow.blocks) == b"".join(fast.blocks) == Path(log.path).read_bytes()
    assert not log._newest, "nothing is kept for viewers that have left"


def test_recordings_that_have_ended_are_let_go(folder: FileRecordings) -> None:
    for number in range(5 * recordings.LOOKED_THROUGH):
        folder.create(f"{number:026}").leave()
        assert len(folder._live) <= recordings.LOOKED_THROUGH
