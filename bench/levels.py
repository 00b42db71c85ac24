"""`python -m bench.levels`: `echo hi` in the cage without and in a room, and with `bwrap` where that is installed.

All take turns in one run. The figures are medians of the wall time and of the processor time of everything that a
command starts, without the rest of the server. `bwrap` gets what a room has: the same namespaces, files and system call filter.
"""

import argparse
import os
import resource
import select
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.executors.local.confinement import RUNNABLE, syscall_filter
from backend.executors.local.launcher import CageLauncher
from backend.executors.local.outside import STANDARD
from backend.executors.local.process_spec import Bounds, RoomEntrance, Stage
from backend.executors.local.rooms import make_room, plan_room
from backend.executors.local.run_as import find_owner, give_folder
from bench.measures import Figure

GOAL = 1.3  # times the wall time without a room
WARM = 20  # commands before the clock starts
Once = Callable[[], None]


def main() -> int:
    """Measure and print; exit code 1 when a goal was missed."""
    parser = argparse.ArgumentParser(prog="bench.levels", description=__doc__)
    parser.add_argument("--commands", type=int, default=500)
    with _ways() as ways:
        figures = _compared(ways, parser.parse_args().commands)
    for figure in figures:
        print(f"{figure.name:24}{figure.value:36}{figure.goal}")
    return 0 if all(figure.good is not False for figure in figures) else 1


@contextmanager
def _ways() -> Iterator[dict[str, Once]]:
    """How to run `echo hi` to its end, by name."""
    owner = find_owner("nobody")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        place = Path(name)
        place.chmod(0o711)
        workspace, cache = place / "workspace", place / "cage"
        for folder in (workspace, cache):
            folder.mkdir()
        give_folder(workspace, owner)
        launcher = CageLauncher(cache, owner)
        room = make_room(launcher.usable_cage(), plan_room([Bounds(str(workspace))]))
        ways = {
            "L2": lambda: _in_cage(launcher, workspace, None),
            "L3, in a room": lambda: _in_cage(launcher, workspace, room.entrance),
        }
        if bwrap := shutil.which("bwrap"):
            words = [bwrap, *shown(workspace)]
            ways["bwrap"] = lambda: _in_bwrap(words)
        yield ways
        room.close()


def _in_cage(launcher: CageLauncher, workspace: Path, room: RoomEntrance | None) -> None:
    null, (output, writing) = os.open(os.devnull, os.O_RDONLY), os.pipe()
    words, streams = ("echo", "hi"), (null, writing, writing)
    stage = Stage("echo", "/bin/echo", words, STANDARD, str(workspace), *streams, Bounds(str(workspace)))
    launched = launcher.start([stage], room)
    for descriptor in (null, writing):
        os.close(descriptor)
    _expect(output)
    select.select([launched.pidfd], [], [])
    launched.finish()


def _in_bwrap(words: list[str]) -> None:
    output, writing = os.pipe()
    program = os.memfd_create("filter")
    os.write(program, syscall_filter(True, None, True))
    os.lseek(program, 0, os.SEEK_SET)
    inherited = [(os.POSIX_SPAWN_DUP2, each, to) for each, to in ((writing, 1), (program, 9))]
    command = [*words, "--seccomp", "9", "/bin/echo", "hi"]
    pid = os.posix_spawn(words[0], command, STANDARD, file_actions=inherited)
    for descriptor in (writing, program):
        os.close(descriptor)
    _expect(output)
    os.waitpid(pid, 0)


def _expect(output: int) -> None:
    """The output of `echo hi`, and its end."""
    with open(output, "rb", buffering=0) as file:
        if (data := file.read()) != b"hi\n":
            sys.exit(f"bench: {data!r} instead of hi")


def shown(workspace: Path) -> list[str]:
    """The options that make of bwrap what a room is."""
    apart = [
        "--unshare-all",
        "--uid",
        "65534",
        "--gid",
        "65534",
        "--cap-drop",
        "ALL",
        "--die-with-parent",
        "--new-session",
    ]
    shown: list[tuple[str, ...]] = [("--symlink", os.readlink(path), path) for path in RUNNABLE if os.path.islink(path)]
    shown += [
        ("--ro-bind", path, path) for path in (*RUNNABLE, "/etc") if os.path.isdir(path) and not os.path.islink(path)
    ]
    shown += [("--proc", "/proc"), ("--dev", "/dev"), ("--tmpfs", "/dev/shm"), ("--tmpfs", "/tmp")]
    return [
        *apart,
        *(word for entry in shown for word in entry),
        "--bind",
        *[str(workspace)] * 2,
        "--chdir",
        str(workspace),
    ]


def _compared(ways: dict[str, Once], commands: int) -> list[Figure]:
    wall: dict[str, list[float]] = {name: [] for name in ways}
    used: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM + commands):
        for name, once in ways.items():
            begun, before = time.perf_counter(), _processor()
            once()
            if number >= WARM:
                wall[name].append(time.perf_counter() - begun)
                used[name].append(_processor() - before)
    plain = statistics.median(wall["L2"])
    return [_figure(name, wall, statistics.median(used[name]), plain) for name in ways]


def _processor() -> float:
    """Seconds of this process and of the children that it has waited for, with theirs."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _figure(name: str, wall: dict[str, list[float]], used: float, plain: float) -> Figure:
    middle = statistics.median(wall[name])
    value = f"{middle * 1e3:.2f} ms, {middle / plain:.2f}x; CPU {used * 1e3:.2f} ms"
    goals = {
        "L3, in a room": (f"<= {GOAL}x", middle <= GOAL * plain),
        "bwrap": ("slower than a room", middle > statistics.median(wall["L3, in a room"])),
    }
    goal, met = goals.get(name, ("", None))
    return Figure(name, value, "", goal, met)


if __name__ == "__main__":
    sys.exit(main())
