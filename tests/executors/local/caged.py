"""Runs commands in the cage for tests: a workspace that the commands' user owns, and a bound to every wait."""

import os
import select
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path

from backend.executors.local import cage_binary
from backend.executors.local.launcher import CageLauncher, CageLimits, cage_environment
from backend.executors.local.process_spec import Bounds, Launched, Ports, Report, RoomEntrance, Stage
from backend.executors.local.rooms import Room, RoomPlan, make_room, plan_room

ROOT = os.geteuid() == 0
RUN_AS = (65534, 65534) if ROOT else None
SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"
BOUND = 30.0  # seconds


def program(name: str) -> str:
    """Its file; a path that is not there where there is none."""
    return shutil.which(name, path=SEARCH_PATH) or f"/nowhere/{name}"


def wait(descriptor: int, seconds: float = BOUND) -> None:
    """Until it can be read; fails when that takes too long."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(seconds * 1000), "nothing came"


def bounded_read(file: FileIO) -> bytes:
    """What comes next; fails when nothing does."""
    wait(file.fileno())
    return file.read(65536)


def read_all(descriptor: int) -> bytes:
    """Until its end, then close it."""
    text = b""
    with open(descriptor, "rb", buffering=0) as file:
        while data := bounded_read(file):
            text += data
    return text


def marked(mark: str) -> list[int]:
    """Processes that have `mark` among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in words:
            found.append(int(path.parent.name))
    return found


@contextmanager
def folder(parent: str = "/tmp") -> Iterator[Path]:
    """A folder that the commands' user owns, under one that it may pass; pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="gatepost-test-", dir=parent) as name:
        place = Path(name)
        place.chmod(0o755)
        workspace = place / "workspace"
        workspace.mkdir()
        give(workspace)
        yield workspace


@contextmanager
def roomy(cache: Path, limits: CageLimits | None = None, parent: str = "/tmp") -> Iterator["Cage"]:
    """A cage whose commands run in rooms, with its workspace below `parent`."""
    with folder(parent) as workspace:
        cage = Cage(CageLauncher(cache, RUN_AS, limits or CageLimits()), workspace, rooms={})
        try:
            yield cage
        finally:
            for room in (cage.rooms or {}).values():
                room.close()


def copied(place: Path) -> Path:
    """A copy of the shipped cage, to be damaged."""
    shutil.copytree(cage_binary.FOLDER, place)
    place.chmod(0o755)
    return place


def give(path: Path) -> None:
    """To the commands' user."""
    if RUN_AS:
        os.chown(path, *RUN_AS)


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    output: bytes  # of the last program, and the errors of all
    report: Report

    @property
    def codes(self) -> list[int]:
        return [end.code for end in self.report.ends]

    @property
    def text(self) -> str:
        return self.output.decode(errors="replace")


@dataclass
class Cage:
    """A launcher and a workspace, with `rooms` one whose commands run in namespaces."""

    launcher: CageLauncher
    root: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    full: bool = False
    rooms: dict[RoomPlan, Room] | None = None  # those that were made

    def limited(self, **limits: int) -> "Cage":
        """The same with other limits."""
        return replace(self, launcher=replace(self.launcher, limits=CageLimits(**limits)))

    def start(
        self, *commands: Sequence[str], stdin: str = os.devnull, network: bool | Ports = False, cwd: str | None = None
    ) -> tuple[Launched, int]:
        """The pipeline, and where its output is to be read."""
        environment = {"PATH": SEARCH_PATH, **cage_environment(str(self.root)), **self.environment}
        output, writing = os.pipe()
        ends = [os.open(stdin, os.O_RDONLY)]
        for _ in commands[1:]:
            reading, piped = os.pipe()
            ends += [piped, reading]
        ends.append(writing)
        bounds = Bounds(str(self.root), network, full=self.full)
        stages = [
            Stage(
                words[0],
                words[0] if "/" in words[0] else program(words[0]),
                tuple(words),
                environment,
                cwd or str(self.root),
                ends[2 * index],
                ends[2 * index + 1],
                writing,
                bounds,
            )
            for index, words in enumerate(commands)
        ]
        try:
            launched = self.launcher.start(stages, self.entrance(bounds))
        except OSError:
            os.close(output)
            raise
        finally:
            for descriptor in ends:
                os.close(descriptor)
        return launched, output

    def entrance(self, bounds: Bounds) -> RoomEntrance | None:
        """The room of a command, made when there is none yet."""
        if self.rooms is None:
            return None
        plan = plan_room([bounds])
        if plan not in self.rooms or self.rooms[plan].ended:
            self.rooms[plan] = make_room(self.launcher.usable_cage(), plan, self.launcher.limits.memory_total)
        return self.rooms[plan].entrance

    def run(
        self, *commands: Sequence[str], stdin: str = os.devnull, network: bool | Ports = False, cwd: str | None = None
    ) -> Done:
        """To the end."""
        launched, output = self.start(*commands, stdin=stdin, network=network, cwd=cwd)
        try:
            text = read_all(output)
        except AssertionError:
            launched.kill()
            raise
        wait(launched.ended)
        return Done(text, launched.finish())


def shell(script: str) -> list[str]:
    """A command that needs several steps."""
    return ["sh", "-c", script]
