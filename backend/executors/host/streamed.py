"""The executor of an enrolled host: the job is sent until the host has it, and its output arrives as it is written.

Every message can be sent twice: a host runs a job once, and output carries the numbers that it has in the recording of the
host. What is missing is asked for again, by sending the job again with the number of the last message that arrived.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import field
from typing import Any, Protocol

from backend.core.dataclasses import dataclass
from backend.core.errors import RecordingError
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import (
    EXIT_GATEPOST_FAILED,
    HANDED_OVER,
    INCOMPLETE,
    NOTHING_USED,
    Delivery,
    Job,
    Outcome,
    SignalName,
    Status,
    StopReason,
    Usage,
    stopped_outcome,
    unrecorded,
)
from backend.core.hosts.commands import HostCommand
from backend.core.hosts.envelope import Envelope, Party
from backend.core.hosts.ports import HostFigures, HostsAway
from backend.core.ids import time_of
from backend.core.recording.lines import LineAssembler
from backend.core.recording.received import ReceivedOutput
from backend.core.recording.redaction.spans import MASK
from backend.core.recording.transcript import output_of
from backend.core.recording.writer import RecordingWriter
from backend.executors.host.input import InputSender

ASK_AGAIN = 3.0  # seconds without a message after which the job is sent again
RESUMED_WITHIN = 60.0  # seconds after its submission in which a job whose server died may begin
LOST_AFTER = 30.0  # seconds without a message, while Redis can be reached, after which what a host runs is lost
GIVEN_UP_AFTER = 100.0  # the same where it has not begun: an agent that was killed takes a while to start
START_WITHIN = 90  # seconds in which a job must begin once it was asked for; less than that, so that none begins later
ANSWER_WITHIN = 1.5  # seconds in which a host answers a signal; less than other servers wait for this one
STOP_GRACE = 10.0  # seconds that the end is waited for once a stop was sent
MAY_STILL_RUN = "The host did not confirm the stop: the command may still run there."


class Streams(Protocol):
    """The way to enrolled hosts."""

    def messages_of(self, party: Party, execution: str) -> AbstractAsyncContextManager["asyncio.Queue[Envelope]"]:
        """What a host says about an execution, within the context."""
        ...

    async def send(self, party: Party, kind: str, body: Mapping[str, Any]) -> None:
        """Send a message to a host. Raises HostsAway."""
        ...


@dataclass(frozen=True, slots=True)
class StreamedExecutor:
    """Runs lines on one enrolled host. `seal` encrypts sensitive parameters, `now` is in Unix seconds.

    One that is not `expected` is not asked: its agent does not run.
    """

    party: Party
    expected: bool
    streams: Streams
    seal: Callable[[str], str]
    lines: Callable[[], LineAssembler]
    now: Callable[[], float]
    clock: Callable[[], float]
    figures: HostFigures = field(default_factory=HostFigures)

    async def run(self, job: Job, output: RecordingWriter, instructions: Instructions) -> Outcome:
        """Have the host run the job, and record what it says."""
        try:
            command = HostCommand.of(job.plan.argvs[0])
        except ValueError as error:
            return Outcome(Status.FAILED, EXIT_GATEPOST_FAILED, problem=f"{error}.", rule="host.parameters")
        if not (self.expected or job.resumed):
            problem = f"The host {self.party.host} is offline: its agent is not running, cannot reach Redis, or its clock is wrong."
            return Outcome(Status.FAILED, EXIT_GATEPOST_FAILED, problem=problem, rule="host.offline")
        async with self.streams.messages_of(self.party, job.execution) as messages:
            with self.figures.counted() as begun:
                order = self._order(job, command)
                return await _Run(self, job, order, output, instructions, messages, begun).watch()

    def _order(self, job: Job, command: HostCommand) -> dict[str, Any]:
        return {
            "execution": job.execution,
            "command": command.name,
            "params": dict(command.sealed(self.seal).params),
            "actor": job.actor.name,
            "timeout": job.timeout,
            "stdin": job.stdin,
            "begins": not job.resumed or self._is_as_submitted(job),
        }

    def _is_as_submitted(self, job: Job) -> bool:
        """Whether a job that is taken up may still begin: its server died just now, and nothing of it was masked."""
        age = self.now() - time_of(job.execution) / 1000
        return age < RESUMED_WITHIN and MASK.decode() not in job.line


@dataclass(slots=True)
class _Run:
    """An execution on a host, as the server sees it. `last` is the number of the last message that was recorded.

    Once it is `asked_for`, the host may have it; once the host has said something of it, it is `known` there, to the `agent`
    that has said it.
    """

    executor: StreamedExecutor
    job: Job
    order: Mapping[str, Any]
    output: RecordingWriter
    instructions: Instructions
    messages: "asyncio.Queue[Envelope]"
    on_begin: Callable[[], None]
    last: int = 0
    asked_for: bool = False
    known: bool = False
    agent: str = ""
    begun: bool = False
    heard: float = 0.0
    stopping: "asyncio.Task[None] | None" = None
    given_up: bool = False
    received: ReceivedOutput = field(init=False)
    input: InputSender = field(init=False)
    passing_on: "asyncio.Task[None] | None" = None
    asked: "dict[str, asyncio.Future[Delivery]]" = field(default_factory=dict)
    signals: int = 0
    deadline: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self.input = InputSender(self.instructions.stdin, self._instruct)
        self.received = ReceivedOutput(self.output, self.job.output_limit, self.executor.lines)

    async def watch(self) -> Outcome:
        self.heard = self.executor.clock()
        self.begun = self.job.resumed
        self._end_within(self.job.timeout if self.begun else self.job.timeout + GIVEN_UP_AFTER)
        try:
            with self.instructions.received_by(self):
                outcome = await self._until_the_end()
        finally:
            if self.deadline:
                self.deadline.cancel()
            for task in (self.stopping, self.passing_on):
                if task:
                    task.cancel()
            self.instructions.stdin.abandon()
            for answer in self.asked.values():
                if not answer.done():
                    answer.set_result(Delivery.NOT_RUNNING)
        with self._stopped_by_errors():
            self.received.flush()
        return outcome

    @contextmanager
    def _stopped_by_errors(self) -> Iterator[None]:
        """Have the host stop what can no longer be recorded."""
        try:
            yield
        except RecordingError as error:
            self.instructions.stop(unrecorded(error))

    def _end_within(self, seconds: float) -> None:
        """Stop the command after a while, instead of when that was to be."""
        if self.deadline:
            self.deadline.cancel()
        loop = asyncio.get_running_loop()
        self.deadline = loop.call_later(seconds, self.instructions.stop, StopReason.TIMED_OUT)

    async def _until_the_end(self) -> Outcome:
        await self._ask()
        while not self.given_up:
            if self.instructions.reason in HANDED_OVER:
                return Outcome(Status.QUEUED, None)
            message = await self._next()
            if message is None:
                if problem := self._silence():
                    return problem
                await self._ask()
            elif (outcome := await self._received(message)) is not None:
                return outcome
        self.received.say(MAY_STILL_RUN)
        return self._stopped()

    async def _next(self) -> Envelope | None:
        """The next message; None if there is none for a while, or the stop was given up."""
        if not self.messages.empty():
            await asyncio.sleep(0)  # others have their turn
            self.heard = self.executor.clock()
            return self.messages.get_nowait()
        getting = asyncio.ensure_future(self.messages.get())
        try:
            await asyncio.wait(
                {getting, *([self.stopping] if self.stopping else [])},
                timeout=ASK_AGAIN,
                return_when=asyncio.FIRST_COMPLETED,
            )
        except asyncio.CancelledError:
            getting.cancel()
            raise
        if not getting.done():
            getting.cancel()
            return None
        self.heard = self.executor.clock()
        return getting.result()

    async def _ask(self) -> None:
        """Send the job: the host begins it, or sends what follows on the last message.

        It must begin before its host is given up, and does not begin after a stop.
        """
        expires = int(self.executor.now() - self._silent) + START_WITHIN
        begins = self.order["begins"] and not self.instructions.reason
        first = not (self.asked_for or self.job.resumed)
        asked = {"begins": begins, "first": first, "after": self.last, "expires": expires, "agent": self.agent}
        order = {**self.order, **asked}
        self.asked_for = True
        try:
            await self.executor.streams.send(self.executor.party, "run", order)
        except HostsAway:
            self.heard = self.executor.clock()  # the silence is not the host's

    @property
    def _silent(self) -> float:
        """Seconds since the host was heard of."""
        return self.executor.clock() - self.heard

    def _silence(self) -> Outcome | None:
        """The outcome where the host has been silent for too long."""
        if self.given_up or self.instructions.reason:
            return None
        silent = self._silent
        host = self.executor.party.host
        if self.begun and silent > LOST_AFTER:
            problem = f"The host {host} has not been heard of for {LOST_AFTER:.0f} s while it ran the command."
            return Outcome(Status.LOST, None, None, *self._sizes, problem=problem, rule="host.lost")
        if not self.begun and silent > GIVEN_UP_AFTER:
            problem = (
                f"The host {host} did not take the command within {GIVEN_UP_AFTER:.0f} s, and will not run it any more. Send it "
                "again when its agent has started. Does its log say why: is its secret the present one, is its clock right?"
            )
            return Outcome(Status.FAILED, EXIT_GATEPOST_FAILED, problem=problem, rule="host.offline")
        return None

    async def _received(self, message: Envelope) -> Outcome | None:
        body = message.body
        if not (self.known or self.begun):  # the time that an agent needs to start is not that of the command
            self._end_within(self.job.timeout)
        self.known, self.agent = True, self.agent or _text(body.get("agent"), 64)
        match message.kind:
            case "alive":
                if body.get("begun") is True:
                    self._has_begun()
            case "output":
                self._has_begun()
                return await self._record_next(message)
            case "input":
                self.input.confirm(body.get("upto"), body.get("closed"))
            case "instructed":
                self._answered(body.get("id"), body.get("delivery"))
            case _:
                pass
        return None

    def _has_begun(self) -> None:
        """The host has the job, so instructions reach the command."""
        self.begun = True
        self.on_begin()
        if (self.job.stdin or self.job.resumed) and self.passing_on is None:
            self.passing_on = asyncio.ensure_future(self.input.run())

    async def _record_next(self, message: Envelope) -> Outcome | None:
        """Record what follows on the last message; ask again if something is missing between them."""
        after, upto, end = (message.body.get(name) for name in ("after", "upto", "end"))
        if not (type(after) is int and type(upto) is int):
            return None
        try:
            parts = list(output_of(message.output))
        except ValueError:  # it is not what is stored in recordings
            return None
        if after > self.last:
            await self._ask()
            return None
        if after == self.last:
            for stream, data in parts:
                self._say(stream, data)
            self.last = max(upto, self.last)
        elif upto > self.last:
            await self._ask()
            return None
        return self._outcome(end) if isinstance(end, dict) else None

    def _say(self, stream: str, data: bytes) -> None:
        """Record a batch of the host, which is to stop the command when no more of it can be recorded."""
        with self._stopped_by_errors():
            if not self.received.add(stream, data):
                self.instructions.stop(StopReason.OUTPUT_LIMIT)

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.received.stdout, self.received.stderr

    def _outcome(self, end: Mapping[str, Any]) -> Outcome:
        """The end as the host reports it; a stop that was asked for here has its own outcome."""
        problem, rule = _text(end.get("error"), 4096), _text(end.get("rule"), 64)
        status = {str(each): each for each in Status if each.is_final}.get(str(end.get("status")), Status.LOST)
        if self.instructions.reason in INCOMPLETE or (self.instructions.reason and status is not Status.SUCCEEDED):
            return self._stopped()
        code = end.get("exit_code")
        if status is Status.DENIED:  # by the policy of the host, which has the last word
            status, code = Status.FAILED, 126
        return Outcome(
            status,
            code if type(code) is int and 0 <= code < 256 else None,
            _text(end.get("signal"), 16) or None,
            *self._sizes,
            problem=problem,
            rule=rule or ("host.failed" if problem else ""),
            usage=usage_of(end),
        )

    def _stopped(self) -> Outcome:
        reason = self.instructions.reason or StopReason.CANCELLED
        return stopped_outcome(reason, None, EXIT_GATEPOST_FAILED, *self._sizes)

    def stop(self) -> None:
        """Have the host stop the command; after a grace its end is not waited for. It outlives the server."""
        self.stopping = asyncio.ensure_future(self._stop())

    async def _stop(self) -> None:
        reason = self.instructions.reason or StopReason.CANCELLED
        if reason in HANDED_OVER:
            return
        for _ in range(5):
            await self._instruct({"stop": str(reason)})
            await asyncio.sleep(STOP_GRACE / 5)
        self.given_up = True

    async def signal(self, name: SignalName) -> Delivery:
        """Pass a signal on, if the host has begun, and wait for what the host says about it."""
        if not self.begun:
            return Delivery.NOT_RUNNING
        self.signals += 1
        id = str(self.signals)
        answer = self.asked[id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                await self._instruct({"signal": str(name)}, id)
                delivery: Delivery = await answer
                return delivery
        except TimeoutError:
            return Delivery.UNREACHABLE
        finally:
            del self.asked[id]

    def _answered(self, id: Any, delivery: Any) -> None:
        answer = self.asked.get(id) if isinstance(id, str) else None
        if answer and not answer.done() and delivery in list(Delivery):
            answer.set_result(Delivery(delivery))

    async def _instruct(self, instruction: Mapping[str, Any], id: str = "") -> None:
        """Send an instruction; that it gets lost because Redis is away shows in that nothing answers it."""
        body = {"execution": self.job.execution, "instruction": instruction, "id": id}
        with suppress(HostsAway):
            await self.executor.streams.send(self.executor.party, "instruct", body)


def usage_of(end: Mapping[str, Any]) -> Usage:
    """The figures that the host reports, as far as they are numbers."""
    found = {name: end.get(name) for name in NOTHING_USED.figures}
    found = {name: value for name, value in found.items() if type(value) is int and 0 <= value < 1 << 60}
    protection = end.get("protection")
    return Usage.of({**found, "protection": protection if protection in ("L0", "L1", "L2", "L3") else ""})


def _text(value: Any, most: int) -> str:
    """A text of a host as every storage and terminal can hold it; empty where there is none."""
    text = value[:most] if isinstance(value, str) else ""
    return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text)
