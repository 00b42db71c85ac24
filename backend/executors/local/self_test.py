"""The protection in force on this machine, established by attempts to break it and not read from the configuration.

| level | protection |
|---|---|
| L0 | a session of its own, resource limits, every process ended with the command |
| L1 | also no new privileges, a system call filter, no network, never root |
| L2 | also nothing outside the workspace can be read or written (Landlock, ABI 3) |
| L3 | also nothing else of the machine exists: files, processes and sockets (namespaces) |
"""

import errno
import os
import select
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from backend.core.dataclasses import dataclass, replace
from backend.executors.local.launcher import LANDLOCK_ABI_FOR_L2, LANDLOCK_ABI_FOR_SIGNALS, CageLauncher
from backend.executors.local.process_spec import Applied, Bounds, Launched, Stage
from backend.executors.local.rooms import Room, make_room, plan_room

LEVELS = ("L0", "L1", "L2", "L3")
BOUND = 1.0  # seconds for all attempts together
FEW = 16  # processes permitted in the attempt to fork
MANY = 512  # processes that it tries to start
CANARY = b"canary"
WRITABLE = 0o666  # the mode of a file that every user may change


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Something that a command must not be able to do. `needed_for` is the lowest level that prevents it."""

    name: str
    needed_for: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Protection:
    """The protection in force. `level` is the lower of what was applied and what the self-tests confirm."""

    level: str
    landlock_abi: int
    layers: tuple[str, ...]
    uid: int  # of the commands
    tests: tuple[SelfTest, ...]
    gaps: tuple[str, ...]  # what is not prevented

    def meets(self, minimum: str) -> bool:
        """Whether the level is high enough."""
        return self.level >= minimum

    def failures(self) -> str:
        """What is not prevented, with a line for each reason; empty if there is nothing."""
        reasons: dict[str, list[str]] = {}
        for test in self.tests:
            if not test.passed:
                reasons.setdefault(test.detail, []).append(test.name)
        return "".join(f"  {', '.join(names)}: {detail}\n" for detail, names in reasons.items())

    def without_namespaces(self, reason: str) -> "Protection":
        """The same, where commands should have run in namespaces, but cannot."""
        return replace(self, tests=(*self.tests, SelfTest("run in namespaces", "L3", False, reason)))

    def as_json(self) -> dict[str, object]:
        """For the health route."""
        return asdict(self)

    def table(self) -> str:
        """For a terminal."""
        rows = [("level", self.level), ("user", str(self.uid)), ("layers", ", ".join(self.layers))]
        width = max(len(name) for name in (*(test.name for test in self.tests), *(row[0] for row in rows)))
        lines = [f"{name:{width}}  {value}" for name, value in rows]
        lines += [f"{test.name:{width}}  {'held' if test.passed else 'NOT HELD'}: {test.detail}" for test in self.tests]
        return "\n".join([*lines, *(f"{'gap':{width}}  {gap}" for gap in self.gaps)])


def probe(launcher: CageLauncher, *, in_room: bool = False) -> Protection:
    """Attempt in the cage what must not work there. Takes up to BOUND seconds; works below the minimum too.

    With `in_room` the attempts are made in a room; where none can be made, OSError.
    """
    with ExitStack() as stack:
        place = _Place(stack, launcher.run_as)
        plan = plan_room([Bounds(place.root)])
        room = make_room(launcher.usable_cage(), plan, launcher.limits.memory_total) if in_room else None
        if room:
            stack.callback(room.close)
        free = replace(launcher, minimum="L0")
        few = replace(free, limits=replace(free.limits, processes=FEW))
        end = time.monotonic() + BOUND
        wanted = place.attempts() + (place.attempts_in_room() if room else [])
        attempts = [_Attempt(free, room, place.root, *attempt) for attempt in wanted]
        changes = {attempt[0] for attempt in wanted if attempt[2] in {"write", "mode"}}
        outlive = _Attempt(free, room, place.root, "outlive the command", "L0", "outlive")
        tests = [attempt.test(end, place.unharmed if attempt.name in changes else _harmed) for attempt in attempts]
        tests.append(outlive.test_ended(end))
        # Last and alone, since its limit depends on all processes of the user, of which the others may end meanwhile.
        forks = _Attempt(few, room, place.root, f"start more than {FEW} processes", "L1", "forks", str(MANY))
        tests.append(forks.test(end, _harmed))
    return _protection(attempts[0].applied, tests)


def can_enter(launcher: CageLauncher, root: str) -> bool:
    """Whether a command that starts now can enter this workspace. Takes up to BOUND seconds."""
    return _Attempt(
        replace(launcher, minimum="L0"), None, root, "enter the workspace", "L0", "read", root
    ).opens_folder()


def _protection(applied: Applied, tests: Sequence[SelfTest]) -> Protection:
    values = dict(layer.split(":") for layer in applied.layers if layer.startswith(("landlock:", "uid:")))
    abi, uid = int(values.get("landlock", 0)), int(values.get("uid", os.getuid()))
    failed = [test.needed_for for test in tests if not test.passed]
    reached = [level for level in LEVELS if level <= applied.level and not any(need <= level for need in failed)]
    return Protection(
        level=reached[-1] if reached else "L0",
        landlock_abi=abi,
        layers=applied.layers,
        uid=uid,
        tests=tuple(tests),
        gaps=tuple(
            _gaps(
                abi,
                same_user=uid == os.geteuid(),
                together="cgroup:memory" in applied.layers,
                apart=reached[-1:] == ["L3"],
            )
        ),
    )


def _gaps(abi: int, *, same_user: bool, together: bool, apart: bool) -> list[str]:
    each = "processor time is" if together else "memory and processor time are"
    gaps = [
        "commands in one workspace at the same time are not isolated from each other",
        f"{each} limited for each process, not for all processes of a command together",
    ]
    if apart:
        return gaps
    gaps += [
        "names and sizes of files outside can be queried, and the times of world-writable ones changed",
        "a command with network access reaches the sockets in the file system that its user may use",
    ]
    if same_user:
        gaps.append("mode and times of the service user's files outside, and of all workspaces, can be changed")
    if same_user and abi < LANDLOCK_ABI_FOR_SIGNALS:
        gaps.append("of the service user's processes only the service and the cage are protected from signals")
    if abi < LANDLOCK_ABI_FOR_L2:
        gaps.append("files outside are protected by ordinary permissions alone")
    return gaps


def _harmed() -> bool:
    """An attempt that worked has done what it was for."""
    return False


class _Place:
    """The targets of the attempts: files outside, ports, this process."""

    def __init__(self, stack: ExitStack, run_as: tuple[int, int] | None) -> None:
        outside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatepost-probe-")))
        outside.chmod(0o755)
        self.root = str(outside / "workspace")
        os.mkdir(self.root)
        self.readable, self.writable = outside / "readable", outside / "writable"
        for path, mode in ((self.readable, 0o644), (self.writable, WRITABLE)):
            path.write_bytes(CANARY)
            path.chmod(mode)
        if run_as and os.geteuid() == 0:
            os.chown(self.root, *run_as)
        self.ports = [self._port(stack, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]

    def _port(self, stack: ExitStack, kind: socket.SocketKind) -> str:
        listening = stack.enter_context(socket.socket(socket.AF_INET, kind))
        listening.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            listening.listen()
        return str(listening.getsockname()[1])

    def unharmed(self) -> bool:
        """Whether the file that every user may change is as it was: in a room, another may have its name."""
        return self.writable.read_bytes() == CANARY and self.writable.stat().st_mode & 0o777 == WRITABLE

    def attempts(self) -> list[tuple[str, ...]]:
        """Name, the lowest level that prevents it, what to attempt, and on what."""
        me = str(os.getpid())
        return [
            ("read a file outside", "L2", "read", str(self.readable)),
            ("write a file outside", "L2", "write", str(self.writable)),
            ("read the service's environment", "L2", "read", f"/proc/{me}/environ"),
            ("signal the service", "L2", "signal", me),
            ("signal the cage", "L2", "signal"),
            ("connect by TCP", "L1", "tcp", self.ports[0]),
            ("send by UDP", "L1", "udp", self.ports[1]),
        ]

    def attempts_in_room(self) -> list[tuple[str, ...]]:
        """What only namespaces prevent, for every user."""
        return [
            ("learn whether a file outside exists", "L3", "see", str(self.readable)),
            ("change the mode of a file outside", "L3", "mode", str(self.writable)),
            ("watch a folder outside", "L3", "watch", str(self.readable.parent)),
        ]


class _Attempt:
    """One of the cage's own attempts, started; its result is negative (an error number) where it was refused."""

    def __init__(
        self, launcher: CageLauncher, room: Room | None, root: str, name: str, needed_for: str, *argv: str
    ) -> None:
        self.name, self.needed_for, self.room = name, needed_for, room
        self.applied = Applied("L0", ())
        self.output, writing = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        # No executable: the cage makes the attempt itself, since a machine may lack any tool.
        stage = Stage(name, "", argv, {}, "/", null, writing, null, Bounds(root))
        try:
            self.launched: Launched | OSError = launcher.start([stage], room.entrance if room else None)
        except OSError as error:
            self.launched = error
        os.close(writing)
        os.close(null)

    def test(self, end: float, unharmed: Callable[[], bool]) -> SelfTest:
        """Passed where the attempt was refused with an error; not where it succeeded or could not be made."""
        result = self._result(end)
        if result is None:
            return self._not_made()
        if result >= 0 and unharmed():
            return self._found(True, "it changed nothing outside")
        return self._found(result < 0, os.strerror(-result) if result < 0 else "it worked")

    def opens_folder(self) -> bool:
        """Whether the attempt to read opened a folder, whose bytes the kernel then did not give."""
        return self._result(time.monotonic() + BOUND) == -errno.EISDIR

    def test_ended(self, end: float) -> SelfTest:
        """Passed where the attempt started a process that is gone now that the command has ended."""
        pid = self._result(end)
        if pid is None or pid <= 0:
            return self._not_made()
        left = bool(self.room.processes()) if self.room else os.path.exists(f"/proc/{pid}")
        return self._found(not left, "it is still running" if left else "it was ended")

    def _not_made(self) -> SelfTest:
        reason = f": {self.launched.strerror or self.launched}" if isinstance(self.launched, OSError) else ""
        return self._found(False, f"could not be tried{reason}")

    def _found(self, passed: bool, detail: str) -> SelfTest:
        return SelfTest(self.name, self.needed_for, passed, detail)

    def _result(self, end: float) -> int | None:
        try:
            if isinstance(self.launched, OSError):
                return None
            if not self._ended(self.launched, end - time.monotonic()):
                self.launched.kill()
                self._ended(self.launched, BOUND)
            report = self.launched.finish()
            self.applied = report.applied
            return None if report.ends[0].error else int(os.read(self.output, 32))
        except ValueError:
            return None
        finally:
            os.close(self.output)

    def _ended(self, launched: Launched, seconds: float) -> bool:
        poll = select.poll()
        poll.register(launched.ended, select.POLLIN)
        return bool(poll.poll(max(seconds, 0.01) * 1000))
