"""Runs commands on this machine: no shell, a session of their own, a short environment, bounded in time and output."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from backend.core.errors import RecordingError
from backend.core.executions import (
    EXIT_GATEPOST_FAILED,
    EXIT_NOT_FOUND,
    EXIT_SIGNAL_BASE,
    Control,
    Inbox,
    Order,
    Outcome,
    Status,
    Stop,
    stopped_outcome,
)
from backend.core.output import LineAssembler, Lines
from backend.core.recording import Recorder
from backend.execution.processes import MARK, Processes

READ_SIZE = 32 * 1024  # bytes; larger reads gain nothing and make other sockets wait
PARTIAL_DELAY = 0.1  # seconds that the start of a line waits for its end
PIPE_READS = 33  # reads that empty a pipe of the largest usual size, 1 MiB
STOP_GRACE = 2.0  # seconds from SIGTERM to SIGKILL
DRAIN_BOUND = 1.0  # seconds that output is waited for after the last process is gone
SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class OutsideProgram:
    """A program with a command line of its own: words put before the arguments, and variables only it gets."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class LocalExecutor:
    """Runs orders as child processes. `outside` maps a program's name to how it is really started."""

    processes: Processes
    outside: Mapping[str, OutsideProgram]

    async def run(self, order: Order, recorder: Recorder, control: Control) -> Outcome:
        """Run to the end; every process of the command is gone when this returns."""
        outside = self.outside.get(order.argv[0], OutsideProgram((order.argv[0],)))
        program = find_program(outside.command[0]) if outside.command else None
        if program is None:
            return _not_found(order.argv[0])
        argv = (*outside.command, *order.argv[1:])
        try:
            child = _Child(program, argv, _environment(order, outside), order, recorder, control)
        except OSError as error:
            return _not_started(order.argv[0], error)
        self.processes.add(child.pid, order.execution)
        try:
            return await child.watch(self.processes)
        finally:
            self.processes.remove(child.pid)


def find_program(name: str) -> str | None:
    """The file that a program's name or path stands for; the search path is fixed."""
    candidates = [name] if "/" in name else [f"{folder}/{name}" for folder in SEARCH_PATH.split(":")]
    return next((path for path in candidates if os.access(path, os.X_OK) and os.path.isfile(path)), None)


def _environment(order: Order, outside: OutsideProgram) -> dict[str, str]:
    """All that a command gets to see; nothing of the service's own environment."""
    return {
        "PATH": SEARCH_PATH,
        "HOME": order.cwd,
        "PWD": order.cwd,
        "LC_CTYPE": "C.UTF-8",  # not LANG: loading all categories takes a fifth of the time of `echo`
        "TERM": "xterm-256color",
        "PYTHONUNBUFFERED": "1",
        MARK: order.execution,
        **outside.environment,
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


class _Child:
    """One running process with its pipes, wired to the recorder on one side and the control on the other."""

    def __init__(
        self,
        program: str,
        argv: tuple[str, ...],
        environment: dict[str, str],
        order: Order,
        recorder: Recorder,
        control: Control,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.order = order
        self.control = control
        self.budget = _Budget(order.output_limit)
        with _Pipes(stdin=order.stdin) as pipes:
            process = subprocess.Popen(
                argv,
                executable=program,
                cwd=order.cwd,
                env=environment,
                stdin=pipes.child_stdin,
                stdout=pipes.child_stdout,
                stderr=pipes.child_stderr,
                start_new_session=True,
            )
            self.pidfd = _pidfd(process)
            stdin, stdout, stderr = pipes.take()
        self.process = process
        self.pid = process.pid
        self.streams = [
            _Stream(self.loop, stdout, "stdout", recorder, control, self.budget),
            _Stream(self.loop, stderr, "stderr", recorder, control, self.budget),
        ]
        self.stdin = _StdinPump(self.loop, stdin, control.stdin) if stdin >= 0 else None

    async def watch(self, processes: Processes) -> Outcome:
        """Wait for the end, its own or the one that is asked for."""
        ended = self.loop.create_future()
        self.loop.add_reader(self.pidfd, _set, ended)
        deadline = self.loop.call_later(self.order.timeout, self.control.stop, Stop.TIMED_OUT)
        stopping: list[asyncio.Task[None]] = []
        self.control.on_stop = lambda: stopping.append(self.loop.create_task(self._stop(processes, ended)))
        if self.control.reason:
            self.control.on_stop()
        try:
            await ended
        finally:
            deadline.cancel()
            self.control.on_stop = lambda: None
            self.loop.remove_reader(self.pidfd)
        return await self._finish(processes, stopping)

    async def _stop(self, processes: Processes, ended: "asyncio.Future[None]") -> None:
        """The stop ladder: SIGTERM, a grace, SIGKILL. Output that floods gets no grace."""
        if self.control.reason is not Stop.OUTPUT_LIMIT:
            processes.terminate(self.pid)
            await asyncio.wait([ended], timeout=STOP_GRACE)
        if not ended.done():
            await processes.kill(self.pid)

    async def _finish(self, processes: Processes, stopping: list[asyncio.Task[None]]) -> Outcome:
        os.close(self.pidfd)
        for task in stopping:
            await task
        if processes.left(self.pid):
            await processes.kill(self.pid)
        _, status, _ = os.wait4(self.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.stdin:
            self.stdin.close()
        for stream in self.streams:
            await stream.drain(DRAIN_BOUND)
        return self._outcome(self.process.returncode)

    def _outcome(self, code: int) -> Outcome:
        name = signal.Signals(-code).name if code < 0 and -code in signal.valid_signals() else None
        exit_code = EXIT_SIGNAL_BASE - code if code < 0 else code
        stdout, stderr = (stream.bytes for stream in self.streams)
        if reason := self.control.reason:
            return stopped_outcome(reason, name, exit_code, stdout, stderr)
        status = Status.SUCCEEDED if code == 0 else Status.FAILED
        return Outcome(status, exit_code, name, stdout, stderr)


class _Pipes:
    """The pipes of one child. On leaving, its ends close; so do ours, unless they were taken."""

    def __init__(self, *, stdin: bool) -> None:
        self.theirs, self.ours = ExitStack(), ExitStack()
        with ExitStack() as undo:
            undo.callback(self._close)
            self.stdout, self.child_stdout = self._pipe()
            self.stderr, self.child_stderr = self._pipe()
            self.child_stdin, self.stdin = self._stdin_pipe() if stdin else (self._null(), -1)
            undo.pop_all()

    def __enter__(self) -> "_Pipes":
        return self

    def take(self) -> tuple[int, int, int]:
        """Our ends (stdin or -1, stdout, stderr), not blocking; the caller closes them."""
        self.ours.pop_all()
        return self.stdin, self.stdout, self.stderr

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        self.theirs.close()
        self.ours.close()

    def _pipe(self) -> tuple[int, int]:
        reading, writing = os.pipe()
        self.ours.callback(os.close, reading)
        self.theirs.callback(os.close, writing)
        os.set_blocking(reading, False)
        return reading, writing

    def _stdin_pipe(self) -> tuple[int, int]:
        reading, writing = os.pipe()
        self.theirs.callback(os.close, reading)
        self.ours.callback(os.close, writing)
        os.set_blocking(writing, False)
        return reading, writing

    def _null(self) -> int:
        null = os.open(os.devnull, os.O_RDONLY)
        self.theirs.callback(os.close, null)
        return null


def _pidfd(process: subprocess.Popen[bytes]) -> int:
    """A descriptor that tells the end of a process; one that cannot be watched may not run."""
    try:
        return os.pidfd_open(process.pid)
    except OSError:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


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
    ) -> None:
        self.loop, self.fd, self.name = loop, fd, name
        self.recorder, self.control, self.budget = recorder, control, budget
        self.assembler = LineAssembler()
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
