"""The executor of a Django project: its runner has claimed the execution, and what it reports is recorded.

The calls of a runner may reach any server, which stores what they say. This executor reads it there, so it does not
matter which server was called, nor how often.
"""

from collections.abc import Callable, Sequence
from dataclasses import field

from backend.core.dataclasses import dataclass
from backend.core.django.ports import RunnerRuns
from backend.core.django.runs import Chunk, ChunkOrder, Patience, Run, StopLevel, given_up
from backend.core.errors import RecordingError, StorageError
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import HANDED_OVER, Delivery, Job, Outcome, SignalName, Status, StopReason
from backend.core.execution.wakeups import Wakeups
from backend.core.recording.lines import LineAssembler
from backend.core.recording.received import ReceivedOutput
from backend.core.recording.writer import RecordingWriter
from backend.executors.django.outcomes import reported

AT_ONCE = 64  # chunks that are read at once
MAY_STILL_RUN = "The runner did not confirm the stop: the command may still run."
LATE_OUTPUT = "[This output arrived late: chunk {}.]"
ASKED = {SignalName.KILL: StopLevel.KILL, SignalName.TERM: StopLevel.CANCEL, SignalName.INT: StopLevel.CANCEL}


@dataclass(frozen=True, slots=True)
class DjangoExecutor:
    """Records what the runner of an execution reports.

    `recheck` is in seconds: how often to look for calls that other servers have answered. `clock` is monotonic.
    """

    runs: RunnerRuns
    wakeups: Wakeups
    lines: Callable[[], LineAssembler]
    now_ms: Callable[[], int]
    clock: Callable[[], float]
    recheck: float
    patience: Patience = field(default_factory=Patience)

    async def run(self, job: Job, output: RecordingWriter, instructions: Instructions) -> Outcome:
        """Follow the execution until its runner has reported its end, or is given up."""
        instructions.stdin.abandon()  # runners close it
        with self.wakeups.watch(job.execution) as watch:
            running = _Running(self, job, output, instructions, watch.event.set)
            try:
                with instructions.received_by(running):
                    while (outcome := await running.look()) is None:
                        await watch.wait(running.pause)
            except RecordingError:
                await self.runs.ask_to_stop(job.execution, StopLevel.KILL, mute=True)
                await self.runs.close_run(job.execution)
                raise
        if outcome.status is not Status.QUEUED:
            await self.runs.close_run(job.execution)
        return outcome


@dataclass(slots=True)
class _Running:
    """One execution. Times are by the monotonic clock, in seconds."""

    executor: DjangoExecutor
    job: Job
    output: RecordingWriter
    instructions: Instructions
    wake: Callable[[], None]
    order: ChunkOrder = field(default_factory=ChunkOrder)
    received: ReceivedOutput = field(init=False)
    begun: float | None = None
    stopped: float | None = None
    missing_since: float | None = None
    asked: StopLevel = StopLevel.RUN
    level: StopLevel = StopLevel.RUN

    def __post_init__(self) -> None:
        self.received = ReceivedOutput(self.output, self.job.output_limit, self.executor.lines)

    @property
    def pause(self) -> float:
        """Seconds until the next look, if there is no call before."""
        return min(self.executor.recheck, 0.5) if self.missing_since or self.stopped else self.executor.recheck

    async def look(self) -> Outcome | None:
        """The next step. A server that may not go on leaves the command to its runner, and the execution to another.

        While the database is away, the runner cannot reach it either: both wait.
        """
        if self.instructions.reason in HANDED_OVER:
            return Outcome(Status.QUEUED, None)
        try:
            return await self.step()
        except StorageError:
            return None

    async def step(self) -> Outcome | None:
        """Record what has arrived; the outcome if that was all."""
        runs, execution = self.executor.runs, self.job.execution
        run = await runs.run(execution)  # before the chunks: what arrived before the end is read
        chunks = await runs.chunks(execution, self.order.next, self.order.skipped, AT_ONCE)
        if run and self.begun is None:
            self.begun = self.executor.clock() - max(self.executor.now_ms() - run.begun_ms, 0) / 1000
        self._record(chunks)
        if len(chunks) == AT_ONCE and self.missing_since is None:
            self.wake()
            return None
        if run is None:
            problem = "What the runner reports of this execution is no longer stored."
            return Outcome(Status.LOST, None, problem=problem, rule="runner.lost")
        self._give_up_missing()
        if run.end and self.missing_since is None:
            return self._ended(run)
        await self._stop(run)
        return self._given_up(run)

    def _record(self, chunks: Sequence[Chunk]) -> None:
        """Record the chunks that are in order."""
        self.order.add(chunks)
        for chunk in self.order.ready():
            if self.order.is_late(chunk):
                self._add(chunk.stream, f"\n{LATE_OUTPUT.format(chunk.number)}\n")
            self._add(chunk.stream, chunk.text)
        if not self.order.waiting:
            self.missing_since = None
        elif self.missing_since is None:
            self.missing_since = self.executor.clock()

    def _give_up_missing(self) -> None:
        """Mark a gap when the chunks in it have been missing for too long."""
        while self.missing_since is not None and self._since(self.missing_since) >= self.executor.patience.gap:
            if gap := self.order.skip():
                self.received.say(str(gap))
            since = self.missing_since
            self._record(())
            self.missing_since = since if self.order.waiting else None

    def _add(self, stream: str, text: str) -> None:
        if not self.received.add(stream, text.encode("utf-8", "replace")):
            self.instructions.stop(StopReason.OUTPUT_LIMIT)

    def _ended(self, run: Run) -> Outcome:
        self.received.flush()
        assert run.end
        return reported(run.end, self.instructions.reason, self.received.stdout, self.received.stderr)

    async def _stop(self, run: Run) -> None:
        """Ask the runner to stop the command: because of an instruction, or of the time."""
        patience = self.executor.patience
        if self.begun is not None and self._since(self.begun) > run.timeout_ms / 1000 + patience.timeout:
            self.instructions.stop(StopReason.TIMED_OUT)
        if self.instructions.reason and self.stopped is None:
            self.stopped = self.executor.clock()
        if self.stopped is not None:
            force = self._since(self.stopped) >= patience.force
            self.asked = max(self.asked, StopLevel.KILL if force else StopLevel.CANCEL)
        if self.asked > self.level:
            mute = self.instructions.reason is StopReason.OUTPUT_LIMIT
            await self.executor.runs.ask_to_stop(self.job.execution, self.asked, mute=mute)
            self.level = self.asked

    def _given_up(self, run: Run) -> Outcome | None:
        """The outcome if the end of a stopped command is waited for no longer."""
        reason, patience = self.instructions.reason, self.executor.patience
        if reason is None or self.stopped is None:
            return None
        silent = max(self.executor.now_ms() - run.heard_ms, 0) / 1000
        if not patience.is_given_up(reason, self._since(self.stopped), silent):
            return None
        self.received.say(MAY_STILL_RUN)
        return given_up(reason, silent, patience, self.received.stdout, self.received.stderr)

    def _since(self, moment: float) -> float:
        return self.executor.clock() - moment

    def stop(self) -> None:
        """Have the command stopped at the next step, which is now."""
        self.wake()

    async def signal(self, name: SignalName) -> Delivery:
        """Runners can be asked to stop a command, or to kill it."""
        if name not in ASKED:
            return Delivery.NOT_RUNNING
        self.asked = max(self.asked, ASKED[name])
        self.wake()
        return Delivery.DELIVERED
