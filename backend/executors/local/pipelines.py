"""Runs pipelines on this machine: no shell, in the cage, a short environment, bounded in time and output."""

import asyncio
import errno
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from backend.core.errors import RecordingError
from backend.core.execution.model import (
    EXIT_GATEPOST_FAILED,
    EXIT_NOT_FOUND,
    EXIT_SIGNAL_BASE,
    Control,
    Inbox,
    Invocation,
    Order,
    Outcome,
    Status,
    Stop,
    Usage,
    stopped_outcome,
)
from backend.core.quota import NO_QUOTA
from backend.core.recording.lines import LineAssembler, Lines
from backend.core.recording.stored import Recorder
from backend.executors.local.launcher import cage_environment
from backend.executors.local.openat2 import NULL, open_inside
from backend.executors.local.process_spec import Bounds, Launched, Launcher, Report, Stage, StageEnd
from backend.executors.local.workspace_usage import UsageMonitors

READ_SIZE = 32 * 1024  # bytes; larger reads gain nothing and make other sockets wait
PARTIAL_DELAY = 0.1  # seconds that the start of a line waits for its end
PIPE_READS = 33  # reads that empty a pipe of the largest usual size, 1 MiB
STOP_GRACE = 2.0  # seconds from SIGTERM to SIGKILL
EXIT_UNWIRED = 1  # of a program whose redirection failed, as in a shell
DRAIN_BOUND = 1.0  # seconds that output is waited for after the last process is gone
FLOODS = {Stop.OUTPUT_LIMIT, Stop.WORKSPACE_FULL, Stop.DISK_FULL}
SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class OutsideProgram:
    """A program with a command line of its own: words put before the arguments, and variables only it gets."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class LocalExecutor:
    """Runs orders as child processes.

    `outside` maps a program's name to how it is really started; `readable` are folders beside the standard ones that
    programs may read; `lines` makes what cuts a stream into lines; `owner` (uid, gid) is who new files belong to;
    `meters` stop what fills a workspace.
    """

    launcher: Launcher
    outside: Mapping[str, OutsideProgram] = field(default_factory=dict)
    readable: tuple[str, ...] = ()
    lines: Callable[[], LineAssembler] = LineAssembler
    owner: tuple[int, int] | None = None
    meters: UsageMonitors = field(default_factory=lambda: UsageMonitors(NO_QUOTA))

    async def run(self, order: Order, recorder: Recorder, control: Control) -> Outcome:
        """Run to the end; every process of the pipeline is gone when this returns."""
        programs = [self._program(invocation) for invocation in order.pipeline]
        for program, invocation in zip(programs, order.pipeline, strict=True):
            if program is None:
                return _not_found(invocation.argv[0])
        lease = await self.meters.lease(order.root, control)
        try:
            said = recorder.say("stderr", lease.notice) if lease.notice else 0
            started = self._start(order, [program for program in programs if program], recorder, full=bool(said))
            match started:
                case Outcome():
                    outcome = started
                case _Started():
                    outcome = await _Running(started, order, recorder, control, self.lines).watch()
            return replace(outcome, stderr_bytes=outcome.stderr_bytes + said)
        finally:
            lease.release()

    def _start(
        self, order: Order, programs: Sequence[tuple[str, tuple[str, ...]]], recorder: Recorder, *, full: bool
    ) -> "_Started | Outcome":
        """The pipeline, or the outcome where there is nothing to wait for."""
        with ExitStack() as descriptors:
            try:
                wiring = _Wiring(order, descriptors, self.owner, recorder, full=full)
                stages = {
                    number: self._stage(order, order.pipeline[number], program, streams)
                    for number, (program, streams) in enumerate(zip(programs, wiring.stages, strict=True))
                    if streams
                }
                if not stages:
                    return Outcome(Status.FAILED, EXIT_UNWIRED, stderr_bytes=wiring.said)
                bounds = Bounds(order.root, order.network, self.readable, full)
                launched = self.launcher.start(list(stages.values()), bounds)
            except OSError as error:
                return _not_started(order.argv[0], error)
            return _Started(launched, wiring.take(), tuple(stages), wiring.said)

    def _program(self, invocation: Invocation) -> tuple[str, tuple[str, ...]] | None:
        """The file to execute and the words it gets."""
        name = invocation.argv[0]
        outside = self.outside.get(name, OutsideProgram((name,)))
        path = find_program(outside.command[0]) if outside.command else None
        return (path, (*outside.command, *invocation.argv[1:])) if path else None

    def _stage(
        self, order: Order, invocation: Invocation, program: tuple[str, tuple[str, ...]], streams: "_Streams"
    ) -> Stage:
        outside = self.outside.get(invocation.argv[0])
        environment = {
            **_environment(order),
            **dict(invocation.environment),
            **(outside.environment if outside else {}),
        }
        return Stage(invocation.argv[0], program[0], program[1], environment, order.cwd, *streams)


def find_program(name: str) -> str | None:
    """The file that a program's name or path stands for; the search path is fixed."""
    candidates = [name] if "/" in name else [f"{folder}/{name}" for folder in SEARCH_PATH.split(":")]
    return next((path for path in candidates if os.access(path, os.X_OK) and os.path.isfile(path)), None)


def _environment(order: Order) -> dict[str, str]:
    """All that a command gets to see; nothing of the service's own environment."""
    return {
        "PATH": SEARCH_PATH,
        "PWD": order.cwd,
        "LC_CTYPE": "C.UTF-8",  # not LANG: loading all categories takes a fifth of the time of `echo`
        "TERM": "xterm-256color",
        "PYTHONUNBUFFERED": "1",
        "GATEPOST_EXECUTION_ID": order.execution,
        "GIT_EDITOR": "true",  # an editor would wait for a terminal for ever
        "GIT_CEILING_DIRECTORIES": os.path.dirname(order.root),
        **cage_environment(order.root),
    }


def _not_found(name: str) -> Outcome:
    return Outcome(
        Status.FAILED,
        EXIT_NOT_FOUND,
        problem=f"{name} is not installed on this server. The operator can install it or name its command line.",
        rule="program.missing",
    )


def _not_started(name: str, error: OSError) -> Outcome:
    why = error.strerror or "it cannot be started"
    return Outcome(
        Status.FAILED, EXIT_GATEPOST_FAILED, problem=f"{name} could not be started: {why}.", rule="program.unstartable"
    )


_Streams = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Ours:
    """Our ends of a pipeline's streams, not blocking; stdin is -1 where there is none."""

    stdin: int
    stdout: int
    stderr: int


@dataclass(frozen=True, slots=True)
class _Started:
    """A pipeline that runs. `numbers` are the places of its programs in the order, of which some may lack their files.

    `said` are the bytes of the messages about these.
    """

    launched: Launched
    ours: _Ours
    numbers: tuple[int, ...]
    said: int


class _Wiring:
    """The descriptors of a pipeline: pipes between its programs, files it is redirected to, pipes to us.

    The children's ends close with `descriptors`, ours too unless they were taken. A program whose file cannot be opened has
    no streams: as in a shell it does not run, with a message as if it were its own, while the others do.
    """

    def __init__(
        self,
        order: Order,
        descriptors: ExitStack,
        owner: tuple[int, int] | None,
        recorder: Recorder,
        *,
        full: bool,
    ) -> None:
        self.theirs, self.ours = descriptors, ExitStack()
        descriptors.push(self.ours)
        self.owner, self.full = owner, full
        self.said = 0
        stdout, child_stdout = self._pipe_to_us()
        stderr, child_stderr = self._pipe_to_us()
        reading, stdin = self._pipe_from_us() if order.stdin else (self._null(), -1)
        self._taken = _Ours(stdin, stdout, stderr)
        self.stages: list[_Streams | None] = []
        last = len(order.pipeline) - 1
        for number, invocation in enumerate(order.pipeline):
            following, writing = self._pipe_between() if number < last else (-1, child_stdout)
            streams = {0: reading, 1: writing, 2: child_stderr}
            try:
                self._redirect(order, invocation, streams)
                self.stages.append((streams[0], streams[1], streams[2]))
            except OSError as error:
                self.said += recorder.say("stderr", f"{error.filename or 'file'}: {error.strerror}")
                self.stages.append(None)
            reading = following

    def _redirect(self, order: Order, invocation: Invocation, streams: dict[int, int]) -> None:
        """Redirections take effect from left to right, as in a shell."""
        for redirect in invocation.redirects:
            if redirect.operator == "2>&1":
                streams[2] = streams[1]
            else:
                if self.full and redirect.operator != "<" and redirect.target != NULL:
                    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), redirect.target)
                descriptor = open_inside(order.root, order.cwd, redirect.target, redirect.operator, self.owner)
                self.theirs.callback(os.close, descriptor)
                streams[redirect.descriptor] = descriptor

    def take(self) -> _Ours:
        """Our ends; the caller closes them."""
        self.ours.pop_all()
        return self._taken

    def _pipe_to_us(self) -> tuple[int, int]:
        reading, writing = os.pipe()
        self.ours.callback(os.close, reading)
        self.theirs.callback(os.close, writing)
        os.set_blocking(reading, False)
        return reading, writing

    def _pipe_from_us(self) -> tuple[int, int]:
        reading, writing = os.pipe()
        self.theirs.callback(os.close, reading)
        self.ours.callback(os.close, writing)
        os.set_blocking(writing, False)
        return reading, writing

    def _pipe_between(self) -> tuple[int, int]:
        reading, writing = os.pipe()
        self.theirs.callback(os.close, reading)
        self.theirs.callback(os.close, writing)
        return reading, writing

    def _null(self) -> int:
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.theirs.callback(os.close, null)
        return null


class _Running:
    """A pipeline that runs, wired to the recorder on one side and the control on the other."""

    def __init__(
        self,
        started: _Started,
        order: Order,
        recorder: Recorder,
        control: Control,
        lines: Callable[[], LineAssembler],
    ) -> None:
        ours = started.ours
        self.loop = asyncio.get_running_loop()
        self.launched, self.started, self.order, self.control = started.launched, started, order, control
        self.budget = _Budget(order.output_limit)
        self.streams = [
            _Stream(self.loop, ours.stdout, "stdout", recorder, control, self.budget, lines()),
            _Stream(self.loop, ours.stderr, "stderr", recorder, control, self.budget, lines()),
        ]
        self.stdin = _StdinPump(self.loop, ours.stdin, control.stdin) if ours.stdin >= 0 else None

    async def watch(self) -> Outcome:
        """Wait for the end, its own or the one that is asked for."""
        ended = self.loop.create_future()
        self.loop.add_reader(self.launched.pidfd, _set, ended)
        deadline = self.loop.call_later(self.order.timeout, self.control.stop, Stop.TIMED_OUT)
        stopping: list[asyncio.Task[None]] = []
        self.control.on_stop = lambda: stopping.append(self.loop.create_task(self._stop(ended)))
        self.control.on_signal = self.launched.signal
        if self.control.reason:
            self.control.on_stop()
        try:
            await ended
        finally:
            deadline.cancel()
            self.control.on_stop = lambda: None
            self.control.on_signal = lambda _: None
            self.loop.remove_reader(self.launched.pidfd)
        for task in stopping:
            await task
        return await self._finish()

    async def _stop(self, ended: "asyncio.Future[None]") -> None:
        """The stop ladder: SIGTERM, a grace, SIGKILL. What floods gets no grace."""
        if self.control.reason not in FLOODS:
            self.launched.terminate()
            await asyncio.wait([ended], timeout=STOP_GRACE)
        if not ended.done():
            self.launched.kill()

    async def _finish(self) -> Outcome:
        report = self.launched.finish()
        if self.stdin:
            self.stdin.close()
        for stream in self.streams:
            await stream.drain(DRAIN_BOUND)
        stdout, stderr = (stream.bytes for stream in self.streams)
        return _outcome(report, self._ends(report), self.order, self.control, stdout, stderr + self.started.said)

    def _ends(self, report: Report) -> list[StageEnd]:
        """How each program ended, also those that did not begin."""
        ran = dict(zip(self.started.numbers, report.ends, strict=True))
        return [ran.get(number, StageEnd(EXIT_UNWIRED)) for number in range(len(self.order.pipeline))]


def _outcome(
    report: Report, ends: Sequence[StageEnd], order: Order, control: Control, stdout: int, stderr: int
) -> Outcome:
    """The outcome of a pipeline: with `pipefail`, the last program that failed decides."""
    for end, invocation in zip(ends, order.pipeline, strict=True):
        if end.error and control.reason is None:
            return _not_started(invocation.argv[0], OSError(end.error, os.strerror(end.error)))
    code = _pipefail(ends)
    name = signal.Signals(-code).name if code < 0 and -code in signal.valid_signals() else None
    exit_code = EXIT_SIGNAL_BASE - code if code < 0 else code
    usage = Usage(
        cpu_ms=int(report.usage.cpu_seconds * 1000),
        peak_memory=report.usage.peak_memory,
        read_bytes=report.usage.read_bytes,
        written_bytes=report.usage.written_bytes,
        protection=report.applied.level,
        layers=report.applied.layers,
    )
    if control.reason:
        return stopped_outcome(control.reason, name, exit_code, stdout, stderr, usage)
    status = Status.SUCCEEDED if code == 0 else Status.FAILED
    return Outcome(status, exit_code, name, stdout, stderr, usage=usage)


def _pipefail(ends: Sequence[StageEnd]) -> int:
    return next((end.code for end in reversed(ends) if end.code), 0)


class _Budget:
    """The bytes that a command may still write, both streams together."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def take(self, wanted: int) -> int:
        """How many of `wanted` bytes may be kept."""
        granted = min(wanted, self.left)
        self.left -= granted
        return granted


class _Stream:
    """Moves one output stream from its pipe to the recorder."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        name: str,
        recorder: Recorder,
        control: Control,
        budget: _Budget,
        assembler: LineAssembler,
    ) -> None:
        self.loop, self.fd, self.name = loop, fd, name
        self.recorder, self.control, self.budget = recorder, control, budget
        self.assembler = assembler
        self.bytes = 0
        self.open = True
        self.timer: asyncio.TimerHandle | None = None
        self.closed = loop.create_future()
        loop.add_reader(fd, self._on_readable)

    def _on_readable(self) -> bool:
        """Move one read; False when there is nothing to read now."""
        try:
            data = os.read(self.fd, READ_SIZE)
        except BlockingIOError:
            return False
        if not data:
            self._close()
            return False
        self.bytes += len(data)
        granted = self.budget.take(len(data))
        if granted:
            self._record(self.assembler.feed(data[:granted]))
            self._time_partial(fresh=b"\n" in data)
        if granted < len(data):
            self.control.stop(Stop.OUTPUT_LIMIT)
        return True

    def _time_partial(self, *, fresh: bool) -> None:
        """Have the start of a line passed on if its end does not come; `fresh` says that it has only just begun."""
        if fresh and self.timer:
            self.timer.cancel()
            self.timer = None
        if self.timer is None and self.assembler.pending:
            self.timer = self.loop.call_later(PARTIAL_DELAY, self._flush)

    def _flush(self) -> None:
        self.timer = None
        self._record(self.assembler.flush())

    def _record(self, ready: list[Lines]) -> None:
        try:
            for lines in ready:
                self.recorder.lines(self.name, lines)
        except RecordingError:
            self.control.stop(Stop.UNRECORDED)

    def _close(self) -> None:
        if not self.open:
            return
        self.open = False
        if self.timer:
            self.timer.cancel()
        self.loop.remove_reader(self.fd)
        os.close(self.fd)
        self._record(self.assembler.flush(final=True))
        self.closed.set_result(None)

    async def drain(self, bound: float) -> None:
        """Read what is left: what the pipe holds, then until it closes or `bound` seconds have gone."""
        for _ in range(PIPE_READS):
            if not (self.open and self._on_readable()):
                break
        if self.open:
            await asyncio.wait([self.closed], timeout=bound)
            self._close()


class _StdinPump:
    """Moves what waits in the inbox into the pipe as fast as the program reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, inbox: Inbox) -> None:
        self.loop, self.fd, self.inbox = loop, fd, inbox
        self.writing = False
        inbox.on_change = self._pump
        self._pump()

    def _pump(self) -> None:
        if self.fd < 0:
            return
        try:
            while self.inbox.waiting:
                del self.inbox.waiting[: os.write(self.fd, self.inbox.waiting)]
        except BlockingIOError:
            self._watch(True)
            return
        except BrokenPipeError:
            self.inbox.waiting.clear()
            self.close()
            return
        self._watch(False)
        if self.inbox.closed:
            self.close()

    def _watch(self, wanted: bool) -> None:
        if wanted and not self.writing:
            self.loop.add_writer(self.fd, self._pump)
        elif self.writing and not wanted:
            self.loop.remove_writer(self.fd)
        self.writing = wanted

    def close(self) -> None:
        """Close the pipe: the program reads the end of its input."""
        if self.fd < 0:
            return
        self._watch(False)
        os.close(self.fd)
        self.fd = -1
        self.inbox.closed = True


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
