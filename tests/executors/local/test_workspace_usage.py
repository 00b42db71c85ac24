"""What is in a workspace is counted, whatever lies there, and who fills it is stopped."""

import asyncio
import ctypes
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from backend.core.execution.instructions import Instructions
from backend.core.execution.model import Status, StopReason
from backend.core.quota import Quota, WorkspaceUsage
from backend.executors.local.launcher import CageLauncher
from backend.executors.local.workspace_usage import UsageMonitors, measure
from tests.executors.local.caged import ROOT, RUN_AS, Cage, folder, give, shell
from tests.executors.local.test_pipelines import Bench

MANY = 1_000_000
MIB = 1 << 20
BOUND = 60.0  # seconds
REPOSITORY = Path(__file__).parents[3]
LIBC = ctypes.CDLL(None)


def test_blocks_are_counted_not_lengths(tmp_path: Path) -> None:
    (tmp_path / "full").write_bytes(b"x" * MIB)
    with (tmp_path / "hole").open("wb") as hole:
        hole.truncate(1 << 40)
    found = measure(str(tmp_path), MANY)
    assert found.files == 2
    assert MIB <= found.bytes < 2 * MIB


def test_a_file_of_several_names_counts_once_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * MIB)
    os.link(tmp_path / "file", tmp_path / "again")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "away").symlink_to("/usr")
    found = measure(str(tmp_path), MANY)
    assert found.files == 4
    assert MIB <= found.bytes < 2 * MIB


def test_names_that_are_no_text_are_counted(tmp_path: Path) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/\xff\n")
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff\n/\xfe", os.O_CREAT | os.O_WRONLY))
    assert measure(str(tmp_path), MANY).files == 2


def test_a_walk_ends_with_the_first_file_too_many(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/file").touch()
    assert measure(str(tmp_path), 100).files == 101
    assert measure(str(tmp_path), MANY).files == 600


def test_folders_too_deep_to_look_into_are_hidden_ones(tmp_path: Path) -> None:
    open_folders = [os.open(tmp_path, os.O_RDONLY)]
    try:
        for _ in range(10_000):
            os.mkdir("d", dir_fd=open_folders[-1])
            open_folders.append(os.open("d", os.O_RDONLY, dir_fd=open_folders[-1]))
            os.close(open_folders.pop(0))
        found = measure(str(tmp_path), MANY)
    finally:
        os.close(open_folders.pop())
        os.spawnlp(os.P_WAIT, "rm", "rm", "-rf", str(tmp_path / "d"))
    assert (found.files, found.hidden) == (101, True)


def test_what_vanishes_meanwhile_is_passed_over(tmp_path: Path) -> None:
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            for number in range(50):
                (tmp_path / f"{number}").mkdir()
                (tmp_path / f"{number}/file").touch()
            (tmp_path / "0").rename(tmp_path / "other")
            (tmp_path / "0").symlink_to("/usr")
            for number in range(1, 50):
                (tmp_path / f"{number}/file").unlink()
                (tmp_path / f"{number}").rmdir()
            (tmp_path / "0").unlink()
            (tmp_path / "other/file").unlink()
            (tmp_path / "other").rmdir()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            found = measure(str(tmp_path), MANY)
            assert not found.hidden
            assert found.files <= 102
    finally:
        done.set()
        thread.join()
    assert measure(str(tmp_path / "nowhere"), MANY) == WorkspaceUsage(0, 0)


def test_what_cannot_be_measured_for_want_of_descriptors_is_a_hidden_one(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        found = measure(str(tmp_path), MANY)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found.hidden


def test_a_folder_that_is_closed_to_us_is_a_hidden_one() -> None:
    """Measured as the commands' user, who can close its folders to itself."""
    with folder() as workspace:
        closed = workspace / "closed"
        closed.mkdir()
        give(closed)
        closed.chmod(0)
        if RUN_AS:
            LIBC.setfsuid(RUN_AS[0])  # holds for this thread alone
        try:
            found = measure(str(workspace), MANY)
        finally:
            LIBC.setfsuid(os.getuid())
        assert (found.files, found.hidden) == (1, True)
        closed.chmod(0o755)


class Room:
    """A workspace in which commands run that are watched over."""

    def __init__(self, place: Path, code: str, quota: Quota) -> None:
        place.chmod(0o755)
        workspace = place / "workspace"
        workspace.mkdir()
        self.bench = Bench(workspace, code)
        self.bench.executor.monitors = UsageMonitors(quota)
        self.workspace = workspace


@pytest.fixture
def place() -> Iterator[Path]:
    with folder() as workspace:
        yield workspace


WRITES = "import time\nwhile True: open('big', 'ab').write(b'x' * 65536); time.sleep(0.001)"
MAKES = "import itertools, os, time\nfor n in itertools.count(): os.mkdir(str(n)); time.sleep(0.001)"
STAYS = "import os, time\nopen(f'begun{os.getpid()}', 'w').close(); time.sleep(60)"
CLOSES = "import os, time\nos.mkdir('closed'); os.chmod('closed', 0)\nwhile True: time.sleep(1)"


async def begun(room: Room, count: int) -> None:
    """Wait until so many commands run: their workspace was measured before, and was not full."""
    async with asyncio.timeout(BOUND):
        while len(list(room.workspace.glob("begun*"))) < count:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("code", [WRITES, MAKES, pytest.param(CLOSES, marks=pytest.mark.skipif(ROOT, reason="root"))])
async def test_who_fills_the_workspace_is_stopped(place: Path, code: str) -> None:
    room = Room(place, code, Quota(4 * MIB, 100, 0))
    instructions = Instructions(stdin=False)
    outcome = await room.bench.run(instructions)
    assert (outcome.status, outcome.signal, instructions.reason) == (
        Status.FAILED,
        "SIGKILL",
        StopReason.WORKSPACE_FULL,
    )


async def test_who_runs_beside_is_stopped_too_and_who_is_elsewhere_is_not(place: Path) -> None:
    (place / "a").mkdir()
    (place / "b").mkdir()
    room, other = (Room(place / name, STAYS, Quota(4 * MIB, 100, 0)) for name in "ab")
    other.bench.executor.monitors = room.bench.executor.monitors
    controls = [Instructions(stdin=False) for _ in range(3)]
    runs = [
        asyncio.ensure_future(each.bench.run(instructions))
        for each, instructions in zip((room, room, other), controls, strict=True)
    ]
    await begun(room, 2)
    (room.workspace / "big").write_bytes(b"x" * 8 * MIB)
    async with asyncio.timeout(BOUND):
        await asyncio.gather(*runs[:2])
    assert [instructions.reason for instructions in controls] == [
        StopReason.WORKSPACE_FULL,
        StopReason.WORKSPACE_FULL,
        None,
    ]
    controls[2].stop(StopReason.CANCELLED)
    await runs[2]


async def test_a_disk_without_room_stops_who_began_with_room(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is one that only tells how full it is, since nobody may fill that of the machine."""
    told = iter([100 * MIB] * 3)
    tells = lambda _: SimpleNamespace(f_bavail=next(told, 9 * MIB), f_frsize=1)  # noqa: E731
    monkeypatch.setattr("backend.executors.local.workspace_usage.os.statvfs", tells)
    room = Room(place, "import time; time.sleep(60)", Quota(0, 0, 10 * MIB))
    instructions = Instructions(stdin=False)
    async with asyncio.timeout(BOUND):
        outcome = await room.bench.run(instructions)
    assert (outcome.status, instructions.reason) == (Status.FAILED, StopReason.DISK_FULL)
    outcome = await room.bench.line("echo a > note")
    assert outcome.status is Status.FAILED
    assert "The disk of the server has less than 10 MiB left." in room.bench.log.text("stderr")


def test_a_full_workspace_can_be_read_and_cleared_and_nothing_else(place: Path, tmp_path: Path) -> None:
    for name in ("old", "long", "kept"):
        (place / name).write_text("text\n")
        give(place / name)
    (place / "folder").mkdir()
    give(place / "folder")
    cage = Cage(CageLauncher(tmp_path, RUN_AS), place, full=True)
    for script in (
        "echo x > new", "echo x >> kept", "mkdir new", "ln -s kept new", "ln kept new", "mkfifo new", "touch new",
        "mv kept new", "cp kept new", "mv kept folder/kept",
    ):  # fmt: skip
        assert cage.run(shell(script)).codes != [0], script
    assert cage.run(shell("ulimit -f")).text == "0\n"  # where Landlock is missing, files do not grow still
    assert cage.run(shell("cat kept; rm old; rmdir folder; : < long")).text == "text\n"
    assert sorted(os.listdir(place)) == ["kept", "long"]
    assert (place / "kept").read_text() == "text\n"


async def test_a_command_in_a_full_workspace_is_told_and_clears_it(place: Path) -> None:
    room = Room(place, "import os, sys; os.remove('big')", Quota(4 * MIB, 100, 0))
    (room.workspace / "big").write_bytes(b"x" * 8 * MIB)
    told = await room.bench.line("echo a > note")
    assert (told.status, told.exit_code) == (Status.FAILED, 1)
    assert "Disk quota exceeded" in room.bench.log.text("stderr")
    assert not (room.workspace / "note").exists()
    outcome = await room.bench.line("x")
    assert outcome.status is Status.SUCCEEDED
    assert outcome.stderr_bytes > 0
    assert "The workspace is full: 8 MiB of 4 MiB, 1 of 100 files." in room.bench.log.text("stderr")
    room.bench.log.messages.clear()
    assert (await room.bench.line("echo a > note")).status is Status.SUCCEEDED  # measured anew, at once
    assert (room.workspace / "note").read_text() == "a\n"
    assert room.bench.log.text("stderr") == ""


async def test_what_a_command_left_is_known_to_the_next(place: Path) -> None:
    """Also what it wrote in the moment before its end, when nobody looked any more."""
    room = Room(place, "open('big', 'wb').write(b'x' * (8 << 20))", Quota(4 * MIB, 100, 0))
    await room.bench.line("x")  # on a busy machine its end may last until it is noticed
    monitor = (await room.bench.executor.monitors.lease(str(room.workspace), Instructions(stdin=False))).monitor
    async with asyncio.timeout(BOUND):
        while monitor.usage is None or monitor.usage.bytes < 8 * MIB:
            await asyncio.sleep(0.01)
    assert (await room.bench.line("echo a > note")).status is Status.FAILED


async def test_a_disk_that_shrinks_by_more_than_is_left_is_reason_to_look_sooner(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first walk takes a second, so that by itself the next would be ten seconds later."""
    walks: list[str] = []
    free = iter([100 * MIB] * 3)

    def slowly(root: str, most: int) -> WorkspaceUsage:
        walks.append(root)
        time.sleep(1 if len(walks) == 1 else 0)
        return WorkspaceUsage(8 * MIB if len(walks) > 1 else 0, 1)

    monkeypatch.setattr("backend.executors.local.workspace_usage.measure", slowly)
    monkeypatch.setattr("backend.executors.local.workspace_usage._free", lambda _: next(free, 90 * MIB))
    room = Room(place, "import time; time.sleep(8)", Quota(4 * MIB, 100, 0))
    instructions = Instructions(stdin=False)
    await room.bench.run(instructions)
    assert instructions.reason is StopReason.WORKSPACE_FULL


async def test_a_home_counts_as_a_part_of_its_workspace(place: Path) -> None:
    for name in ("workspace", "home"):
        (place / name).mkdir(exist_ok=True)
        (place / name / "file").write_bytes(bytes(MIB))
    instructions = Instructions(stdin=False)
    for limit, full in ((3, False), (1.5, True)):
        monitors = UsageMonitors(Quota(int(limit * MIB), 100, 0))
        lease = await monitors.lease(str(place / "workspace"), instructions, str(place / "home"))
        assert bool(lease.notice) == full
        lease.release()


ENDS = """
import asyncio, sys, threading
from backend.core.execution.instructions import Instructions
from backend.core.quota import Quota
from backend.executors.local import workspace_usage
workspace_usage.measure = lambda root, most: threading.Event().wait()
async def main():
    (await workspace_usage.UsageMonitors(Quota(1, 1, 0)).lease("/", Instructions(stdin=False))).release()
asyncio.run(main())
"""


def test_the_end_of_the_service_does_not_wait_for_a_walk() -> None:
    subprocess.run([sys.executable, "-c", ENDS], cwd=REPOSITORY, check=True, timeout=BOUND)


def no_new_thread(_: object) -> None:
    """Stands for a machine on which commands have used up the processes."""
    raise RuntimeError("can't start new thread")


async def test_where_no_thread_can_be_started_any_more_the_limit_holds(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(place, STAYS, Quota(4 * MIB, 100, 0))
    monkeypatch.setattr("threading.Thread.start", no_new_thread)
    instructions = Instructions(stdin=False)
    running = asyncio.ensure_future(room.bench.run(instructions))
    await begun(room, 1)
    (room.workspace / "big").write_bytes(b"x" * 8 * MIB)
    async with asyncio.timeout(BOUND):
        assert (await running).signal == "SIGKILL"
    assert instructions.reason is StopReason.WORKSPACE_FULL


async def test_a_walk_that_fails_counts_as_a_full_workspace(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(root: str, most: int) -> WorkspaceUsage:
        raise MemoryError

    monkeypatch.setattr("backend.executors.local.workspace_usage.measure", fails)
    room = Room(place, "pass", Quota(4 * MIB, 100, 0))
    assert (await room.bench.line("echo a > note")).status is Status.FAILED
    assert "cannot be measured" in room.bench.log.text("stderr")
    monkeypatch.undo()
    assert (await room.bench.line("echo a > note")).status is Status.SUCCEEDED


async def test_a_walk_that_does_not_end_counts_as_a_full_workspace(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def waits(root: str, most: int) -> WorkspaceUsage:
        release.wait(BOUND)
        return WorkspaceUsage(0, 0)

    monkeypatch.setattr("backend.executors.local.workspace_usage.measure", waits)
    monkeypatch.setattr("backend.executors.local.workspace_usage.FIRST_WALK", 0.1)
    room = Room(place, "pass", Quota(4 * MIB, 100, 0))
    try:
        assert (await room.bench.line("echo a > note")).status is Status.FAILED
        assert "not been measured yet" in room.bench.log.text("stderr")
    finally:
        release.set()


async def test_a_disk_that_cannot_be_measured_counts_as_full(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: str) -> None:
        raise PermissionError

    monkeypatch.setattr("backend.executors.local.workspace_usage.os.statvfs", fails)
    room = Room(place, "import time; time.sleep(60)", Quota(0, 0, 10 * MIB))
    assert (await room.bench.line("echo a > note")).status is Status.FAILED


async def test_a_command_does_not_wait_for_a_walk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, began, walks = threading.Event(), threading.Event(), []

    def slowly(root: str, most: int) -> WorkspaceUsage:
        walks.append(root)
        if len(walks) > 1:
            began.set()
            release.wait(BOUND)
        return WorkspaceUsage(0, 0)

    monkeypatch.setattr("backend.executors.local.workspace_usage.measure", slowly)
    room = Room(place, "pass", Quota(4 * MIB, 100, 0))
    try:
        assert (await room.bench.line("x")).status is Status.SUCCEEDED
        async with asyncio.timeout(BOUND):
            await asyncio.to_thread(began.wait, BOUND)
            for _ in range(5):
                assert (await room.bench.line("x")).status is Status.SUCCEEDED
        assert len(walks) == 2
    finally:
        release.set()
