"""Runs pipelines on this machine: no shell, in the cage, a short environment, bounded in time and output."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import partial

from backend.core.dataclasses import dataclass, replace
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import (
    EXIT_GATEPOST_FAILED,
    EXIT_NOT_FOUND,
    EXIT_SIGNAL_BASE,
    Delivery,
    Outcome,
    SignalName,
    Status,
    StopReason,
    Usage,
    stopped_outcome,
)
from backend.core.execution.pipeline import Input, Pipeline
from backend.core.language.parser import Invocation
from backend.core.policy.egress import Egress
from backend.core.policy.files import TEMPORARY
from backend.core.policy.line_state import ENVIRONMENT
from backend.core.policy.shell import STATE
from backend.core.quota import NO_QUOTA
from backend.core.recording.lines import LineAssembler
from backend.core.recording.writer import RecordingWriter
from backend.executors.local.cage_call import Descriptors
from backend.executors.local.egress import Caller, proxy_environment
from backend.executors.local.ending import Ending
from backend.executors.local.homes import IN_WORKSPACE, Home, Homes, git_defaults, make_temporary, remove
from backend.executors.local.inputs import open_input
from backend.executors.local.launcher import POLLING, CageLimits, cage_environment
from backend.executors.local.outside import STANDARD, OutsideProgram, find_program, of_machine
from backend.executors.local.process_spec import (
    Bounds,
    Launched,
    Launcher,
    Owner,
    Report,
    RoomEntrance,
    Stage,
    StageEnd,
)
from backend.executors.local.readers import Readers
from backend.executors.local.rooms import Rooms
from backend.executors.local.shell_state import SIZE, StateError, left_state, state_file
from backend.executors.local.streams import Budget, Captured, OutputStream, StdinPump
from backend.executors.local.wiring import ParentEnds, Streams, Wiring
from backend.executors.local.workspace_usage import UsageMonitors
from backend.executors.local.workspace_users import folder_owner

TOOL_FOLDERS = ("node_modules/.bin", ".venv/bin", "venv/bin")
# What is said of a command that a limit ended, by its rule.
LIMITS = {
    "limits.cpu": "The command used all the processor time that it may have (GATEPOST_CPU_LIMIT).",
    "limits.file_size": "The command wrote a file larger than it may (GATEPOST_FILE_SIZE_LIMIT).",
    "limits.memory": "The command needed more memory than it may have (GATEPOST_MEMORY_LIMIT).",
    "limits.processes": "The command started more processes than it may (GATEPOST_PROCESS_LIMIT).",
}
HEAP_PART = 3 / 4  # of the memory of a command, for the heap of node; it needs some for other things
NEARLY_ALL, NEARLY_ALL_PART = (
    "nearly all memory",
    0.7,
)  # has been used: less than the heap of node and what else it needs
STOP_GRACE = 2.0  # seconds from SIGTERM to SIGKILL
BEGIN_BOUND = 10.0  # seconds from SIGKILL until what has not even begun is given up
UNFAILED = {0, -signal.SIGPIPE, EXIT_SIGNAL_BASE + signal.SIGPIPE}  # 141: a program says how its child ended
EXIT_UNWIRED = 1  # of a program whose redirection failed, as in a shell
UNWIRED = StageEnd(EXIT_UNWIRED)
DRAIN_BOUND = 1.0  # seconds that output is waited for after the last process is gone
FLOODS = {StopReason.OUTPUT_LIMIT, StopReason.RECORDINGS_FULL, StopReason.WORKSPACE_FULL, StopReason.DISK_FULL}


@dataclass(slots=True)
class LocalPipelines:
    """Runs pipelines as child processes.

    `outside` maps a program's name to how it is really started and what it alone gets; `readable` are folders in addition
    to the standard ones that all programs may read; `lines` makes what cuts a stream into lines; `owner` (uid, gid) is
    there where the service is root, and commands run as the owner of their workspace; `monitors` stop what fills a workspace;
    `memory` is what a command may have, in bytes; `rooms` are the namespaces that commands run in, `homes` the folders where
    tools store what is theirs; `environment` are variables of the operator for all commands.
    """

    launcher: Launcher
    outside: Mapping[str, OutsideProgram] = field(default_factory=dict)
    readable: tuple[str, ...] = ()
    lines: Callable[[], LineAssembler] = LineAssembler
    owner: Owner | None = None
    monitors: UsageMonitors = field(default_factory=lambda: UsageMonitors(NO_QUOTA))
    rooms: Rooms = field(default_factory=Rooms)
    memory: int = CageLimits().memory
    homes: Homes | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    _readers: Readers | None = None

    def opened(self, source: bytes | str, root: str, cwd: str) -> Input:
        """These bytes, or a file below `root`, as an input that programs share. Raises OSError."""
        return open_input(source, root, cwd)

    async def run(self, pipeline: Pipeline, recorder: RecordingWriter, instructions: Instructions) -> Outcome:
        """Run to the end; every process of the pipeline is gone when this returns."""
        files: list[str] = []
        for invocation in pipeline.invocations:
            program = self._outside(invocation)
            file = self._file(program, invocation, pipeline) if program.command else None
            if file is None:
                return _not_found(invocation.argv[0])
            files.append(file)
        async with Ending() as ending:
            try:
                owner = folder_owner(pipeline.root, self.owner)
                own = self._own_home(pipeline, owner, ending)
                homes = [
                    await self._private_home(self.outside[name], pipeline, owner, instructions, ending)
                    if name in self.outside
                    else own
                    for name in (invocation.argv[0] for invocation in pipeline.invocations)
                ]
            except OSError as error:
                return _not_started(pipeline.argv[0], error)
            lease = await self.monitors.lease(pipeline.root, instructions, own.kept)
            ending.add(lease.release)
            said = recorder.say("stderr", lease.notice) if lease.notice else 0
            bounds = self._bounds(pipeline, homes, full=bool(lease.notice))
            try:
                room = await self._enter(pipeline, bounds, ending)
                if (room and room.temporary) or _uses_temporary(pipeline):
                    make_temporary(pipeline.root, owner)
            except OSError as error:
                return replace(_not_started(pipeline.argv[0], error), stderr_bytes=said)
            state = state_file() if pipeline.leaves_state else -1
            if pipeline.leaves_state:
                ending.add(partial(os.close, state))
            started = self._start(pipeline, files, owner, bounds, room, recorder, state)
            match started:
                case Outcome():
                    outcome = started
                case _Started():
                    readers = self._readers_of(asyncio.get_running_loop())
                    running = _Running(started, pipeline, recorder, instructions, readers, self.lines, self.memory)
                    outcome = await running.watch()
                    if pipeline.leaves_state:
                        outcome = _with_state(outcome, state, started.given, recorder)
            return replace(outcome, stderr_bytes=outcome.stderr_bytes + said) if said else outcome

    def _readers_of(self, loop: asyncio.AbstractEventLoop) -> Readers:
        if self._readers is None or self._readers.loop is not loop:
            self._readers = Readers(loop)
        return self._readers

    def _own_home(self, pipeline: Pipeline, owner: Owner | None, ending: Ending) -> Home:
        """The home of the workspace, which stays."""
        if self.homes is None or pipeline.home in {"", pipeline.root}:
            return IN_WORKSPACE
        home = self.homes.hold(pipeline.home, owner)
        ending.add(partial(self.homes.release, pipeline.home))
        return home

    async def _private_home(
        self,
        program: OutsideProgram,
        pipeline: Pipeline,
        owner: Owner | None,
        instructions: Instructions,
        ending: Ending,
    ) -> Home:
        """A home for this run alone, which may hold as much as a workspace."""
        if program.homes is None:
            return IN_WORKSPACE
        home = program.homes.make(pipeline.execution, owner)
        ending.add(partial(asyncio.to_thread, remove, home))
        lease = await self.monitors.single(str(home)).lease(instructions)
        ending.add(lease.release)
        return Home(str(home))

    async def _enter(self, pipeline: Pipeline, bounds: list[Bounds], leaving: Ending) -> RoomEntrance | None:
        """The room of its programs. Listed hosts are reached from a room alone: without one there is no network."""
        egress = pipeline.network if isinstance(pipeline.network, Egress) else None
        return await self.rooms.enter(bounds, leaving, egress, Caller(pipeline.execution, pipeline.actor))

    def _bounds(self, pipeline: Pipeline, homes: Sequence[Home], *, full: bool) -> list[Bounds]:
        """The confinement of each program."""
        return [
            Bounds(
                pipeline.root,
                pipeline.network is True or program.network or False,
                (*self.readable, *program.readable),
                full,
                home.path,
                home.kept,
            )
            for program, home in zip(map(self._outside, pipeline.invocations), homes, strict=True)
        ]

    def _start(
        self,
        pipeline: Pipeline,
        files: Sequence[str],
        owner: Owner | None,
        bounds: Sequence[Bounds],
        room: RoomEntrance | None,
        recorder: RecordingWriter,
        state: int,
    ) -> "_Started | Outcome":
        """The pipeline, started from these files, or the outcome where there is nothing to wait for."""
        with Descriptors() as ours, Descriptors() as theirs:
            try:
                wiring = Wiring(pipeline, theirs, ours, owner, recorder, full=bounds[0].full)
                stages = {
                    number: self._stage(pipeline, number, files[number], each, streams, owner, room, state)
                    for number, (each, streams) in enumerate(zip(bounds, wiring.stages, strict=True))
                    if streams
                }
                if not stages:
                    return Outcome(Status.FAILED, EXIT_UNWIRED, stderr_bytes=wiring.said)
                launched = self.launcher.start(list(stages.values()), room, owner)
            except OSError as error:
                return _not_started(pipeline.argv[0], error)
            ours.keep()
            return _Started(launched, wiring.parent_ends, tuple(stages), wiring.said, _given(stages, pipeline))

    def _outside(self, invocation: Invocation) -> OutsideProgram:
        """How a program is started; one of the machine's own by its name."""
        name = invocation.argv[0]
        return self.outside.get(name) or of_machine(name)

    def _file(self, program: OutsideProgram, invocation: Invocation, pipeline: Pipeline) -> str | None:
        """The file that a program is started from; of the project where it is named by a path, or not installed here."""
        name = program.command[0]
        if invocation.argv[0] in self.outside:
            return find_program(name)
        if "/" in name:
            return find_program(os.path.join(pipeline.cwd, name))
        activated = _activated(pipeline, invocation)
        own = find_program(f"{activated}/bin/{name}") if activated else None
        return own or find_program(name) or self._tool(name, pipeline)

    def _tool(self, name: str, pipeline: Pipeline) -> str | None:
        """A tool that the project has installed."""
        return next(filter(None, (find_program(f"{folder}/{name}") for folder in _tool_folders(pipeline))), None)

    @property
    def _heap(self) -> dict[str, str]:
        """What node takes for its heap: otherwise it asks for the memory of the machine, and is ended without a word."""
        return {"NODE_OPTIONS": f"--max-old-space-size={int(self.memory * HEAP_PART) >> 20}"}

    def _stage(
        self,
        pipeline: Pipeline,
        number: int,
        file: str,
        bounds: Bounds,
        streams: Streams,
        owner: Owner | None,
        room: RoomEntrance | None,
        state: int,
    ) -> Stage:
        invocation = pipeline.invocations[number]
        program = self._outside(invocation)
        words = (*program.command, *invocation.argv[1:])
        environment = {**_environment(pipeline, bounds.home), **({} if room else POLLING), **self._heap}
        if bounds.kept:
            environment["GIT_CONFIG_GLOBAL"] = git_defaults(bounds.home, pipeline.actor.name, owner)
        environment.update(self.environment)
        if room and room.proxy:
            environment.update(proxy_environment(room.proxy))
        environment.update(invocation.environment)
        environment.update(program.environment)
        if state >= 0:
            environment[STATE] = str(state)
        activated = _activated(pipeline, invocation)
        if activated and invocation.argv[0] not in self.outside:
            environment |= {ENVIRONMENT: activated, "PATH": f"{activated}/bin:{environment['PATH']}"}
        return Stage(invocation.argv[0], file, words, environment, pipeline.cwd, *streams, bounds, state)


def _activated(pipeline: Pipeline, invocation: Invocation) -> str:
    """The virtual environment that the line has activated; empty where there is none, or where a shell runs the line."""
    if pipeline.leaves_state or not invocation.environment:
        return ""
    name = dict(invocation.environment).get(ENVIRONMENT, "")
    folder = os.path.normpath(os.path.join(pipeline.root, name)) if name else ""
    return folder if folder.startswith(f"{pipeline.root}/") else ""


def _tool_folders(pipeline: Pipeline) -> list[str]:
    """Where a project has installed tools, seen from the folder that a command runs in."""
    folders = [pipeline.cwd]
    while folders[-1].startswith(f"{pipeline.root}/"):
        folders.append(os.path.dirname(folders[-1]))
    places = (f"{folder}/{place}" for folder in folders for place in TOOL_FOLDERS)
    return [place for place in places if os.path.isdir(place)]


def _given(stages: Mapping[int, Stage], pipeline: Pipeline) -> Mapping[str, str]:
    """The variables that the first program got, those of the line apart."""
    number, first = next(iter(stages.items()))
    own = dict(pipeline.invocations[number].environment)
    if not own:
        return first.environment
    return {name: value for name, value in first.environment.items() if name not in own}


def _uses_temporary(pipeline: Pipeline) -> bool:
    folder = f"{pipeline.root}/{TEMPORARY}"
    words = (word for each in pipeline.invocations for word in (*each.argv, *(file.target for file in each.redirects)))
    return any(folder in word for word in words)


def _environment(pipeline: Pipeline, home: str) -> dict[str, str]:
    """All that a command gets to see; nothing of the service's own environment."""
    return {
        **STANDARD,
        "PATH": ":".join([STANDARD["PATH"], *_tool_folders(pipeline)]),
        "PWD": pipeline.cwd,
        "GATEPOST_EXECUTION_ID": pipeline.execution,
        "GIT_CEILING_DIRECTORIES": pipeline.root.rpartition("/")[0] or "/",
        **cage_environment(home or pipeline.root),
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


@dataclass(frozen=True, slots=True)
class _Started:
    """A pipeline that runs. `numbers` are the places of its programs in the pipeline, of which some may lack their files.

    `said` are the bytes of the messages about these; `given` are the variables that the first one got, those of the line
    apart.
    """

    launched: Launched
    ours: ParentEnds
    numbers: tuple[int, ...]
    said: int
    given: Mapping[str, str]


class _Running:
    """A pipeline that runs, wired to the recorder on one side and the instructions on the other."""

    def __init__(
        self,
        started: _Started,
        pipeline: Pipeline,
        recorder: RecordingWriter,
        instructions: Instructions,
        readers: Readers,
        lines: Callable[[], LineAssembler],
        memory: int,
    ) -> None:
        ours, self.memory = started.ours, memory
        self.loop, self.readers = readers.loop, readers
        self.ended: asyncio.Future[None] = self.loop.create_future()
        self.stopping: asyncio.Task[None] | None = None
        self.launched, self.started, self.pipeline, self.instructions = (
            started.launched,
            started,
            pipeline,
            instructions,
        )
        self.budget = Budget(pipeline.output_limit)
        written = Captured(pipeline.captured) if pipeline.captured else lines()
        self.streams = [
            OutputStream(readers, ours.stdout, "stdout", recorder, instructions, self.budget, written),
            OutputStream(readers, ours.stderr, "stderr", recorder, instructions, self.budget, lines()),
        ]
        self.stdin = StdinPump(self.loop, ours.stdin, instructions.stdin) if ours.stdin >= 0 else None

    async def watch(self) -> Outcome:
        """Wait for the end, its own or the one that is asked for."""
        self.readers.add(self.launched.ended, partial(_set, self.ended))
        deadline = self.loop.call_later(self.pipeline.timeout, self.instructions.stop, StopReason.TIMED_OUT)
        try:
            with self.instructions.received_by(self):
                await self.ended
        finally:
            deadline.cancel()
            self.readers.remove(self.launched.ended)
        if self.stopping:
            await self.stopping
        return await self._finish()

    def stop(self) -> None:
        """Begin to end it."""
        self.stopping = self.loop.create_task(self._stop())

    async def signal(self, name: SignalName) -> Delivery:
        """Send a signal to every process of the pipeline."""
        sent = self.launched.signal(signal.Signals[f"SIG{name}"])
        return Delivery.DELIVERED if sent else Delivery.NOT_RUNNING

    async def _stop(self) -> None:
        """The stop ladder: SIGTERM, a grace, SIGKILL, and the end of what did not begin it. What floods gets no grace."""
        if self.instructions.reason not in FLOODS:
            self.launched.terminate()
            await asyncio.wait([self.ended], timeout=STOP_GRACE)
        if not self.ended.done():
            self.launched.kill()
            await asyncio.wait([self.ended], timeout=BEGIN_BOUND)
        if not self.ended.done():
            self.launched.give_up()

    async def _finish(self) -> Outcome:
        report = self.launched.finish()
        if self.stdin:
            self.stdin.close()
        for stream in self.streams:
            await stream.drain(DRAIN_BOUND)
        stdout, stderr = (stream.bytes for stream in self.streams)
        outcome = _outcome(
            report, self._ends(report), self.pipeline, self.instructions, stdout, stderr + self.started.said
        )
        return outcome if self.instructions.reason else _with_limit(outcome, report, self.memory)

    def _ends(self, report: Report) -> list[StageEnd]:
        """How each program ended, also those that did not begin."""
        ran = dict(zip(self.started.numbers, report.ends, strict=True))
        return [ran.get(number, UNWIRED) for number in range(len(self.pipeline.invocations))]


def _outcome(
    report: Report, ends: Sequence[StageEnd], pipeline: Pipeline, instructions: Instructions, stdout: int, stderr: int
) -> Outcome:
    """The outcome of a pipeline is that of its last program; with `pipefail`, of the last one that failed."""
    for end, invocation in zip(ends, pipeline.invocations, strict=True):
        if end.error and instructions.reason is None:
            return _not_started(invocation.argv[0], OSError(end.error, os.strerror(end.error)))
    code = _pipefail(ends) if pipeline.pipefail else ends[-1].code
    name = signal.Signals(-code).name if code < 0 and -code in signal.valid_signals() else None
    exit_code = EXIT_SIGNAL_BASE - code if code < 0 else code
    usage = Usage(
        cpu_ms=int(report.usage.cpu_seconds * 1000),
        peak_memory_bytes=report.usage.peak_memory,
        read_bytes=report.usage.read_bytes,
        written_bytes=report.usage.written_bytes,
        protection=report.applied.level,
        layers=report.applied.layers,
    )
    if instructions.reason:
        return stopped_outcome(instructions.reason, name, exit_code, stdout, stderr, usage)
    status = Status.SUCCEEDED if code == 0 else Status.FAILED
    return Outcome(status, exit_code, name, stdout, stderr, usage=usage)


def _with_limit(outcome: Outcome, report: Report, memory: int) -> Outcome:
    """The outcome with the limit that ended the command, if one did."""
    if outcome.status is not Status.FAILED or outcome.problem:
        return outcome
    met = report.limits_met | ({NEARLY_ALL} if report.usage.peak_memory >= NEARLY_ALL_PART * memory else set())
    limit = _limit(outcome.exit_code or 0, met)
    return replace(outcome, problem=LIMITS[limit], rule=limit) if limit else outcome


def _with_state(outcome: Outcome, state: int, given: Mapping[str, str], recorder: RecordingWriter) -> Outcome:
    """The outcome of a program that ran a whole line, with what it left."""
    try:
        return replace(outcome, left=left_state(state, given))
    except StateError:
        said = recorder.say("stderr", f"The variables of this line are not kept: they have more than {SIZE} bytes.")
        return replace(outcome, stderr_bytes=outcome.stderr_bytes + said)


def _limit(exit_code: int, met: frozenset[str]) -> str:
    """The rule of the limit that ended a command, as far as the kernel reports it; a shell reports its child's end.

    Where one of its processes was killed for memory, the others may end as they like. What gets no more may end itself: node
    aborts.
    """
    match exit_code - EXIT_SIGNAL_BASE:
        case signal.SIGXCPU:
            return "limits.cpu"
        case signal.SIGXFSZ:
            return "limits.file_size"
        case signal.SIGABRT if NEARLY_ALL in met:
            return "limits.memory"
        case _ if not exit_code:
            return ""
    return "limits.memory" if "memory" in met else "limits.processes" if "pids" in met else ""


def _pipefail(ends: Sequence[StageEnd]) -> int:
    """SIGPIPE is no failure: `head` has seen enough, and the program before it ends."""
    return next((end.code for end in reversed(ends) if end.code not in UNFAILED), 0)


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
