"""`python -m bench.levels`: `echo hi` in the cage without and in a room, alone, and with `bwrap` where that is installed.

All take turns in one run. The figures are medians of the wall time and of the processor time of everything that a
command starts, without the rest of the server; that of the cage's server is in it. `bwrap` gets what a room has: the same namespaces, files and system call filter.
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

from backend.executors.local.cage_server import CageServer, find_server
from backend.executors.local.confinement import RUNNABLE, syscall_filter
from backend.executors.local.launcher import CageLauncher
from backend.executors.local.outside import STANDARD
from backend.executors.local.process_spec import Bounds, RoomEntrance, Stage
from backend.executors.local.rooms import make_room, plan_room
from backend.executors.local.run_as import find_owner, give_folder
from bench.measures import Figure

MOST_OF_L2 = 1.3  # times the wall time without a room, for one in a room
MOST_OF_ALONE = 2.0  # times that of the program alone, for one in the cage
MOST_OF_BWRAP = 0.22  # times that with bwrap, for one in the cage
CPUCLOCK_SCHED = 2  # of the kernel: with the pid, the number of the clock of another process
WARM = 20  # commands before the clock starts
Once = Callable[[], None]


def main() -> int:
    """Measure and print; exit code 1 when a goal was missed."""
    parser = argparse.ArgumentParser(prog="bench.levels", description=__doc__)
    parser.add_argument("--commands", type=int, default=500)
    with _ways() as (ways, server):
        figures = _compared(ways, server, parser.parse_args().commands)
    for figure in figures:
        print(f"{figure.name:24}{figure.value:36}{figure.goal}")
    return 0 if all(figure.good is not False for figure in figures) else 1


@contextmanager
def _ways() -> Iterator[tuple[dict[str, Once], CageServer]]:
    """How to run `echo hi` to its end, by name, and the server of the cage."""
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
            "alone": _alone,
            "L2": lambda: _in_cage(launcher, workspace, None),
            "L3, in a room": lambda: _in_cage(launcher, workspace, room.entrance),
        }
        if bwrap := shutil.which("bwrap"):
            words = [bwrap, *shown(workspace)]
            ways["bwrap"] = lambda: _in_bwrap(words)
        yield ways, find_server(launcher.usable_cage())
        room.close()


def _in_cage(launcher: CageLauncher, workspace: Path, room: RoomEntrance | None) -> None:
    null, (output, writing) = os.open(os.devnull, os.O_RDONLY), os.pipe()
    words, streams = ("echo", "hi"), (null, writing, writing)
    stage = Stage("echo", "/bin/echo", words, STANDARD, str(workspace), *streams, Bounds(str(workspace)))
    launched = launcher.start([stage], room)
    for descriptor in (null, writing):
        os.close(descriptor)
    _expect(output)
    select.select([launched.ended], [], [])
    launched.finish()


def _alone() -> None:
    """Started as other programs would: with pipes, and nothing to hold it."""
    output, writing = os.pipe()
    streams = [(os.POSIX_SPAWN_DUP2, writing, to) for to in (1, 2)]
    pid = os.posix_spawn("/bin/echo", ("echo", "hi"), STANDARD, file_actions=streams)
    os.close(writing)
    _expect(output)
    os.waitpid(pid, 0)


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


def _compared(ways: dict[str, Once], server: CageServer, commands: int) -> list[Figure]:
    wall: dict[str, list[float]] = {name: [] for name in ways}
    used: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM + commands):
        for name, once in ways.items():
            begun, before = time.perf_counter(), _processor(server)
            once()
            if number >= WARM:
                wall[name].append(time.perf_counter() - begun)
                used[name].append(_processor(server) - before)
    times = {name: statistics.median(wall[name]) for name in ways}
    return [_figure(name, times, statistics.median(used[name])) for name in ways]


def _processor(server: CageServer) -> float:
    """Seconds of this process, of the children that it has waited for, with theirs, and of the server of the cage."""
    used = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return used + (time.clock_gettime((~server.pid << 3) | CPUCLOCK_SCHED) if server.pid else 0)


def _figure(name: str, times: dict[str, float], used: float) -> Figure:
    value = f"{times[name] * 1e3:.2f} ms, {times[name] / times['alone']:.2f}x; CPU {used * 1e3:.2f} ms"
    limits = {
        "L2": {"alone": MOST_OF_ALONE, "bwrap": MOST_OF_BWRAP},
        "L3, in a room": {"L2": MOST_OF_L2, "bwrap": MOST_OF_BWRAP},
    }
    goals = {other: most for other, most in limits.get(name, {}).items() if other in times}
    told = ", ".join(f"<= {most:g}x {other} ({times[name] / times[other]:.2f})" for other, most in goals.items())
    met = all(times[name] <= most * times[other] for other, most in goals.items()) if goals else None
    return Figure(name, value, "", told, met)


if __name__ == "__main__":
    sys.exit(main())
