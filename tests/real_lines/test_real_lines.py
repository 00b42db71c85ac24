"""Lines as people and agents send them: how many of them run in a project. As a program it prints the shares and the others."""

import asyncio
import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest

from backend.core.decisions import Decision
from backend.core.execution.model import EXIT_DENIED
from backend.core.policy.admit import Plan, admit
from backend.core.policy.files import FileView, Unseen
from backend.core.policy.profile import OFFLINE, Offline, Profile
from backend.executors.local.launcher import CageLauncher, cage_environment
from backend.executors.local.outside import STANDARD
from backend.executors.local.rooms import Rooms, make_room
from backend.executors.local.run_as import give_folder
from backend.policies.loader import load_profile
from tests.core.execution.test_lines import OWNER, Bench
from tests.real_lines.project import ENVIRONMENT, seed

LINES = Path(__file__).parent / "lines.txt"
PROFILES = ("agent", "workbench")
# Of all lines; what is refused is not offered on purpose, or not yet.
ENOUGH = {"agent": 0.95, "workbench": 0.99}
EVERY = 3  # one of so many lines is run
# What needs the network, packages or a room, does not end by itself, or is about what is outside of a project.
APART = re.compile(
    r"\b(npm|npx|yarn|pnpm|bun|curl|wget|pip3?|uv|poetry|pytest|cargo|go|mvn|gradlew|docker|sudo|apt-get|brew|gh|psql|push|pull|fetch"
    r"|vim|nano|code|open|watch|tail -f|less|ps|pgrep|pkill|kill|lsof|ss|netstat|venv|crontab|ssh-keygen|help|date|shuf|mktemp|rg|tree)\b"
    r"|[^&>]&($|[^&>])|/(tmp|dev|proc)\b|until|server"
)
SHARED = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock")  # where everybody may write, other tests among them
NOT_COMPARED = {"out.tar.gz", ".git", ".tmp", ".cache", "__pycache__", ".config", ".npm"}


def files() -> Unseen:
    """A workspace that cannot be looked into, and a home beside it."""
    view = Unseen(PurePosixPath("/srv/ws"))
    view.home = PurePosixPath("/srv/homes/ws")
    view.variables = {**STANDARD, **cage_environment(str(view.home))}
    return view


@dataclass(frozen=True, slots=True)
class Somewhere:
    """A project with the network on, in a room, whose files are not here."""

    profile: Profile
    files: FileView = field(default_factory=files)
    network: bool = True
    offline: Offline = OFFLINE


def lines() -> list[str]:
    written = [line for line in LINES.read_text().splitlines() if line and not line.startswith("#")]
    return [line.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\") for line in written]


def refused(name: str) -> dict[str, Decision]:
    """The lines that a profile refuses."""
    target = Somewhere(load_profile(name).in_rooms())
    verdicts = ((line, admit(line, target, ".")) for line in lines())
    return {line: verdict for line, verdict in verdicts if isinstance(verdict, Decision)}


@pytest.mark.parametrize("name", PROFILES)
def test_most_lines_are_accepted(name: str) -> None:
    found, every = refused(name), lines()
    assert len(set(every)) >= 150
    assert len(found) <= (1 - ENOUGH[name]) * len(every)
    assert all(verdict.reason and verdict.hint for verdict in found.values())


@dataclass(frozen=True, slots=True)
class Compared:
    """What became of lines in a project: how many ran, those that ended otherwise than in bash, files that differ after all,
    what changed outside, and the processes that are left."""

    ran: int
    unlike: dict[str, tuple[int | None, int]]
    files: set[str]
    outside: set[str]
    left: list[str]


async def compared(folder: Path, shared: tuple[str, ...] = ()) -> Compared:
    """Run some lines one after another in a project, with and without a room, and in a copy of it by bash.

    Outside is another project, and folders that everybody shares.
    """
    alone, *copies = (folder / name for name in ("alone", "in_room", "bash", "neighbour"))
    in_room, theirs, neighbour = copies
    alone.mkdir()
    seed(alone)
    for each in copies:
        shutil.copytree(alone, each)
    for each in (folder, neighbour, *neighbour.rglob("*")):
        each.chmod(0o777)  # only the cage is between
    launcher = CageLauncher(folder / "cage", OWNER)
    rooms = Rooms(partial(make_room, launcher.usable_cage()))
    before = outside(neighbour, shared)
    ends = await ran(Bench(alone)), await ran(Bench(in_room, rooms=rooms))
    changed, left = outside(neighbour, shared) ^ before, processes(folder)
    await rooms.close()
    expected = {line: in_bash(line, theirs) for line in ends[0]}
    unlike = {
        line: (code, expected[line]) for each in ends for line, code in each.items() if unequal(code, expected[line])
    }
    files = differing(alone, theirs) | differing(in_room, theirs)
    return Compared(len(expected), unlike, files, {str(each[0]) for each in changed}, left)


async def ran(bench: Bench) -> dict[str, int | None]:
    """How each line ends that is accepted."""
    for each in (bench.folder, *bench.folder.rglob("*")):
        give_folder(each, OWNER)
    ends = {}
    for line in [line for line in lines() if not APART.search(line)][::EVERY]:
        if isinstance(bench.judge(line), Plan):
            ends[line] = (await bench.run(line)).outcome.exit_code
    return ends


def in_bash(line: str, folder: Path) -> int:
    """How it ends there."""
    environment = {**ENVIRONMENT, "HOME": str(folder)}
    words = ["bash", "-c", line]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=30)
    return done.returncode


def unequal(code: int | None, expected: int) -> bool:
    return code != expected and not (code == EXIT_DENIED and expected)


def outside(neighbour: Path, shared: tuple[str, ...]) -> set[tuple[str | int, ...]]:
    """The state of another project, which everybody may write to, and of what the commands' user has in shared folders."""
    owned = (each for folder in shared for each in Path(folder).glob("*") if OWNER and _state(each)[:1] == OWNER[:1])
    return {(str(each), *_state(each)) for each in (neighbour, *neighbour.rglob("*"), *owned)}


def _state(path: Path) -> tuple[int, ...]:
    """Its owner, mode, size and time of change; nothing of what has gone meanwhile, as others' files in /tmp may."""
    with suppress(FileNotFoundError):
        about = path.lstat()
        return about.st_uid, about.st_mode, about.st_size, about.st_mtime_ns
    return ()


def processes(folder: Path) -> list[str]:
    """What still runs there."""
    found = (each.parent.name for each in Path("/proc").glob("[0-9]*/cwd") if _leads_to(each, folder))
    return list(found)


def _leads_to(link: Path, folder: Path) -> bool:
    with suppress(OSError):  # it has ended
        return os.readlink(link).startswith(str(folder))
    return False


def differing(one: Path, other: Path) -> set[str]:
    first, second = contents(one), contents(other)
    return {name for name in first | second if first.get(name) != second.get(name)}


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a project by name, without those that tools keep for themselves."""
    found = (each for each in folder.rglob("*") if each.is_file() and not each.is_symlink())
    names = {str(each.relative_to(folder)): each for each in found}
    return {name: each.read_bytes() for name, each in names.items() if NOT_COMPARED.isdisjoint(Path(name).parts)}


async def test_lines_do_in_a_project_what_they_do_in_bash_and_nothing_outside(tmp_path: Path) -> None:
    found = await compared(tmp_path)
    assert found.ran >= 40
    assert (found.unlike, found.files) == ({}, set())
    assert (found.outside, found.left) == (set(), [])


if __name__ == "__main__":
    for each in PROFILES:
        others = refused(each)
        print(f"{each}: {1 - len(others) / len(lines()):.1%} of {len(lines())} lines are accepted")
        for written, verdict in others.items():
            print(f"  {written!r:60.60} {verdict.rule}")
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        sampled = asyncio.run(compared(Path(folder), SHARED))
    print(
        f"agent: {1 - len(sampled.unlike) / sampled.ran:.1%} of {sampled.ran} of these ran and ended as in bash, at L2 and L3"
    )
    print(f"outside of the project they changed {len(sampled.outside)} files and left {len(sampled.left)} processes")
