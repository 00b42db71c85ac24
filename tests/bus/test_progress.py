"""Where another server goes on."""

from pathlib import Path

from backend.bus.progress import CopyProgress, FollowProgress
from backend.core.recording.batches import after, last_seq
from tests.bus.servers import ID, Local, Recording, Viewer, stored


def recorded(folder: Path) -> bytes:
    local = Local(folder)
    recording = Recording(local.recordings)
    recording.write('one\ntwo \\ "seq":99\nthree\n')
    recording.write("four\n")
    recording.end()
    return stored(local)


def test_the_last_number_of_a_block(tmp_path: Path) -> None:
    lines = recorded(tmp_path).splitlines(keepends=True)
    assert [last_seq(line) for line in lines] == [1, 4, 5, 6]
    assert [last_seq(b"".join(lines[:count])) for count in range(1, 5)] == [1, 4, 5, 6]
    assert last_seq(lines[1].rstrip()) == 4
    assert last_seq(b"") == 0


async def test_what_the_viewer_has_is_not_sent_again(tmp_path: Path) -> None:
    block = recorded(tmp_path)
    for first in range(7):
        viewer = Viewer()
        progress = FollowProgress(ID, viewer.send, first)
        for start in range(7):
            await progress.pass_on(after(block, start))
        assert viewer.numbers == list(range(first + 1, 7))
        assert progress.after_seq == 6


async def test_a_copy_goes_on_behind_what_was_sent() -> None:
    viewer = Viewer()
    progress = CopyProgress(ID, viewer.send, 100, None)
    await progress.pass_on(b"x" * 50)
    assert progress.begin == 150
    assert viewer.received == b"x" * 50
