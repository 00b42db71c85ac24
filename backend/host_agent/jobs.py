"""The jobs of an enrolled host: they arrive on its stream, run once each, and their recordings leave on another.

The execution has the id here that it has on the server. So a job that arrives again, even after a restart, is the same
execution, and its recording on disk is sent from wherever the server asks for.
"""

import asyncio
import random
import re
from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import field
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from backend.application.executions import ExecutionService
from backend.application.submission import CommandSpec
from backend.bus.exchange import Exchange
from backend.bus.expiry import StreamExpiry
from backend.bus.link import GONE
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.model import (
    NOTHING_USED,
    Delivery,
    Instruction,
    Signal,
    SignalName,
    Status,
    Stop,
    StopReason,
    Write,
)
from backend.core.execution.refusals import UNRECORDED
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused
from backend.core.hosts.commands import HostCommand
from backend.core.hosts.envelope import Envelope, Party
from backend.core.hosts.messages import LONGEST_ID, Dropped, SeenIds
from backend.core.hosts.naming import is_host_id, jobs_stream, reply_stream
from backend.core.identity import VISITOR_PERMISSIONS, Principal
from backend.core.ids import PATTERN
from backend.core.recording.batches import last_seq, stored_lines
from backend.core.recording.transcript import Transcript
from backend.host_agent.front import Front
from backend.host_agent.handlers import QuickHandler
from backend.host_agent.targets import LINES, target_of

GROUP, CONSUMER = "agent", "agent"
BLOCK = 5.0  # seconds that one read of an empty stream waits
BATCH = 32
PATIENCE = 5.0  # seconds for one exchange with Redis
MOST_UNREAD = 64  # messages that a server has not read; more wait in the recording
COUNTED_FROM = MOST_UNREAD // 4  # messages since their number was asked for, from which on it is asked for with each
READS_SOON = 0.01  # seconds until a server that reads has read some of them
READ_AHEAD = 8  # blocks of a recording that wait while others are sent
JOINED = 256 * 1024  # bytes of blocks in one message that are enough
FLOWING = 16 * 1024  # bytes of output in a message behind which more is expected
MORE_SOON = 0.003  # seconds that it is given to come, so that it needs fewer messages
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
MOST_JOBS = 512
MOST_READ = 64  # recordings that are read for one server at once; others wait on disk until these are sent
EXECUTION = re.compile(PATTERN)
# It may run there. The server names the agent that has it, by its data folder, so that no other one begins it again.
TWIN = "a job is that of another agent with the id of this host"
ENDED = ("status", "exit_code", "signal", *NOTHING_USED.figures)


@dataclass(slots=True)
class Job:
    """A job that is being run or sent: what follows on the message `after` of its recording.

    One that cannot begin before `expires`, or that no longer `begins`, is not begun; but its recording is sent if it began
    before. The `first` request for it finds nothing of it here. `message` is the id of what it arrived by. `input` is how much of its standard input has arrived, in
    bytes.
    """

    execution: str
    server: str
    message: bytes
    expires: float
    begins: bool
    first: bool
    task: "asyncio.Task[None] | None" = None
    sending: "asyncio.Task[None] | None" = None
    begun: bool = False
    after: int = 0
    stopped: StopReason | None = None
    input: int = 0


@dataclass(slots=True)
class Jobs:
    """The jobs of this host. `record` is called with what was dropped, `back` when Redis is back."""

    client: Redis
    party: Party
    front: Front
    now: Callable[[], float]
    nonce: Callable[[], str]
    record: Callable[[Dropped], None]
    report: Callable[[str], None]
    back: Callable[[], None] = lambda: None
    jobs: dict[str, Job] = field(default_factory=dict)
    seen: SeenIds = field(default_factory=SeenIds)
    tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    unread: dict[str, int] = field(default_factory=dict)  # messages that each server has not read, at most
    reading: dict[str, asyncio.Semaphore] = field(
        default_factory=lambda: defaultdict(partial(asyncio.Semaphore, MOST_READ))
    )
    unacknowledged: set[bytes] = field(default_factory=set)
    acknowledging: "asyncio.Task[None] | None" = None
    expiry: StreamExpiry = field(init=False)
    _sending: Exchange = field(init=False)
    _away: bool = False

    def __post_init__(self) -> None:
        self._sending = Exchange(self.client, PATIENCE)
        self.expiry = StreamExpiry(self.now)

    @property
    def service(self) -> ExecutionService:
        return self.front.service

    @property
    def running(self) -> set["asyncio.Task[None]"]:
        """What is to be finished before the agent ends."""
        return {task for job in self.jobs.values() for task in (job.task, job.sending) if task and not task.done()}

    async def listen(self) -> None:
        """Receive jobs, until cancelled: first those that an earlier run received and did not begin."""
        pause, start = FIRST_PAUSE, "0"
        while True:
            try:
                start = await self._read(start)
                pause = FIRST_PAUSE
                self._over()
            except GONE as error:
                self._lost(error)
                start = "0"
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _read(self, start: str) -> str:
        """Receive a batch; returns where to go on."""
        stream = jobs_stream(self.party.host)
        if start == "0" and self.unacknowledged:
            await self._acknowledge()
        try:
            async with asyncio.timeout(BLOCK + PATIENCE):  # a connection that was cut silently never answers
                found = await self.client.xreadgroup(
                    GROUP, CONSUMER, {stream: start}, count=BATCH, block=round(BLOCK * 1000)
                )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.client.xgroup_create(stream, GROUP, id="0", mkstream=True)
            return "0"
        entries = found[0][1] if found else []
        known = {job.message for job in self.jobs.values()} if start != ">" else set()
        for id, fields in entries:
            if id not in known:
                self._receive(id, fields or {}, new=start == ">")
        if start == ">" or not entries:
            return ">"
        return str(entries[-1][0].decode())

    def _receive(self, id: bytes, fields: Mapping[bytes, bytes], *, new: bool) -> None:
        message = self.party.open(fields.get(b"m", b""), "host", self.now(), self.seen)
        match message:
            case Envelope("run", body):
                self._run(id, body, new=new)
            case Envelope("instruct", body):
                self._ack(id)
                self._instruct(body)
            case Envelope():
                self._ack(id)
            case Dropped():
                self._ack(id)
                self.record(message)

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def _ack(self, id: bytes) -> None:
        """Delete a message, with others and with what is sent next. If Redis is away, before others are read."""
        self.unacknowledged.add(id)
        if self.acknowledging is None or self.acknowledging.done():
            self.acknowledging = self._start(self._acknowledge_all())

    async def _acknowledge_all(self) -> None:
        with suppress(*GONE):
            while self.unacknowledged:
                await self._acknowledge()

    async def _acknowledge(self) -> None:
        stream, ids = jobs_stream(self.party.host), tuple(self.unacknowledged)
        await self._sending.send(("XACK", stream, GROUP, *ids), ("XDEL", stream, *ids))
        self.unacknowledged.difference_update(ids)

    def _run(self, id: bytes, body: Mapping[str, Any], *, new: bool) -> None:
        asked = _asked(id, body, new=new)
        if asked is None or body.get("agent") not in (None, "", self.service.folder):
            self._ack(id)
            self.record(Dropped("a job is malformed") if asked is None else Dropped(TWIN))
            return
        job = self.jobs.get(asked.execution)
        if job or len(self.jobs) >= MOST_JOBS:  # what finds no place now is asked for again
            self._ack(id)
        if job:  # it waits or is being sent; the other message of it is acknowledged when it has begun
            self._again(job, asked)
        elif len(self.jobs) < MOST_JOBS:
            job = self.jobs[asked.execution] = asked
            job.task = self._start(self._serve(job, body))
            job.task.add_done_callback(lambda _: self.jobs.pop(asked.execution, None))

    def _again(self, job: Job, asked: Job) -> None:
        """Send what follows on `after`, or that the job is alive if the server has all. Another server has taken it up."""
        moved, job.server = asked.server != job.server, asked.server
        job.expires = max(job.expires, asked.expires)
        if (asked.after < job.after or moved) and job.sending:
            job.after = asked.after
            job.sending.cancel()
        else:
            self._start(self._quietly(job, "alive", {"begun": job.begun}))

    async def _quietly(self, job: Job, kind: str, body: Mapping[str, Any]) -> None:
        with suppress(*GONE):
            await self._send(job, kind, body)

    async def _serve(self, job: Job, body: Mapping[str, Any]) -> None:
        """Begin a job when its turn has come, and send its recording."""
        if isinstance(self.front.handlers.get(str(body.get("command"))), QuickHandler):
            await self._answer(job, body)
            return
        late = self.now() > job.expires
        async with self.front.free:
            if self.now() > job.expires and not late:
                self._ack(job.message)  # while it waited, its server may have given it up; else it asks again
                return
            started = await self._begun(job, body)
            self._begin_sending(job, started)
            if isinstance(started, Execution) and started.task:
                await asyncio.wait({started.task})
        await self._all_sent(job, started)

    async def _answer(self, job: Job, body: Mapping[str, Any]) -> None:
        """Run a command that is over soon. Its recording is sent when it has ended: in one message, unless it is long."""
        started = await self._begun(job, body)
        reading = self.reading[job.server]
        if isinstance(started, Execution) and not reading.locked():
            async with reading:
                if await self._send_ended(job, started):
                    return
        self._begin_sending(job, started)
        await self._all_sent(job, started)

    async def _begun(self, job: Job, body: Mapping[str, Any]) -> "Execution | Known | Decision | None":
        """Begin a job. None: storage does not say whether it began before, so nothing can be said of it yet."""
        try:
            return await self._begin(job, body)
        except StorageError as error:
            self.report(f"a job is not begun, and will be asked for again: {error}")
            return None

    def _begin_sending(self, job: Job, started: "Execution | Known | Decision | None") -> None:
        self._ack(job.message)
        if isinstance(started, Execution | Known):
            job.begun = True
            job.sending = asyncio.ensure_future(self._follow(job))

    async def _all_sent(self, job: Job, started: "Execution | Known | Decision | None") -> None:
        """Wait until the recording is sent; from an earlier message on where the server asks for it. Or send a refusal."""
        if isinstance(started, Decision):
            await self._until_sent(job, _output(job.after, job.after, _refusal(started)))
        while job.sending:
            if not job.sending.done():
                await asyncio.wait({job.sending})
            if not job.sending.cancelled():
                job.sending.result()
                return
            job.sending = asyncio.ensure_future(self._follow(job))

    async def _begin(self, job: Job, body: Mapping[str, Any]) -> "Execution | Known | Decision":
        """Start a job, or find it started. Raises StorageError."""
        who = Principal(f"server:{body.get('actor')}"[:128], "redis", VISITOR_PERMISSIONS)
        if not job.first:
            return await self._known(who, job) or await self._start_execution(who, job, body)
        started = await self._start_execution(who, job, body)
        if isinstance(started, Decision) and started.rule in UNRECORDED:  # so it is for an id that is on record
            return await self._known(who, job) or started
        return started

    async def _known(self, who: Principal, job: Job) -> "Known | Decision | None":
        """What is on record of a job that arrives again."""
        record = await self.service.history.get(job.execution)
        if record and record.principal != who.name:
            return Decision.deny("host.parameters", "This execution of the host was started by someone else.")
        if record and record.status is Status.DENIED:
            return Decision.deny(record.rule, "The host has refused it.", "Its audit says why.")
        return Known(record.id) if record else None

    async def _start_execution(self, who: Principal, job: Job, body: Mapping[str, Any]) -> Execution | Decision:
        name, params = body.get("command"), body.get("params")
        if not (isinstance(name, str) and isinstance(params, dict)):
            return Decision.deny("host.parameters", "The job is malformed.")
        if job.stopped:
            return Decision.deny("host.stopped", "The job was stopped before it began.")
        try:
            line, target = target_of(HostCommand(name, params), self.front.handlers)
        except ValueError as error:
            return Decision.deny("host.parameters", f"{error}.")
        if not job.begins or self.now() > job.expires:
            return Decision.deny("host.expired", "The job reached this host too late, and was not begun.")
        seconds = self._timeout(name, body.get("timeout"))
        reads = target == LINES and body.get("stdin") is True
        spec = CommandSpec(line, target, timeout=seconds, stdin=reads, detached=True, execution=job.execution)
        started = await self.service.submit(who, spec)
        if isinstance(started, Refused):
            return started.decision
        assert isinstance(started, Execution), "no target of a host waits, and no key was given"
        self.front.executed += 1
        if job.stopped:
            started.instructions.stop(job.stopped)
        return started

    def _timeout(self, name: str, asked: Any) -> float | None:
        """The shorter of what the handler permits and what the server asks for."""
        handler = self.front.handlers.get(name)
        if handler is None:
            return None
        return min(handler.timeout, asked) if isinstance(asked, int | float) and asked > 0 else handler.timeout

    async def _follow(self, job: Job) -> None:
        """Send the recording from `after` on, to its end. What is read while a message is sent shares the next one."""
        blocks: asyncio.Queue[bytes] = asyncio.Queue(READ_AHEAD)
        async with self.reading[job.server], asyncio.TaskGroup() as both:
            both.create_task(self._send_blocks(job, blocks))
            problem = await self.service.follow_started(job.execution, job.after, blocks.put)
            await blocks.put(b"")
        if problem:
            end = {"status": "lost", "error": problem.reason, "rule": problem.rule}
            await self._until_sent(job, _output(job.after, job.after, end))

    async def _send_ended(self, job: Job, execution: Execution) -> bool:
        """Send a recording once it has ended, from memory: a reader of one that runs opens no file.

        False: it cannot be read, and nothing is sent.
        """
        job.begun = True
        blocks: asyncio.Queue[bytes] = asyncio.Queue()
        try:
            recording = self.service.local.reader(job.execution)
            if execution.task:
                await asyncio.wait({execution.task})
            if recording:
                await recording.follow(job.after, blocks.put)
        except OSError:
            return False
        finally:
            self._ack(job.message)  # in the exchange in which its end is sent
        blocks.put_nowait(b"")
        if recording:
            await self._send_blocks(job, blocks)
        return recording is not None

    async def _send_blocks(self, job: Job, blocks: "asyncio.Queue[bytes]") -> None:
        transcript = Transcript()
        while block := await _joined(blocks):
            upto, (output, others) = last_seq(block), _divided(block)
            await transcript.add(others)
            await self._until_sent(job, _output(job.after, upto, _end(transcript)), output)
            job.after = upto
            if len(output) >= FLOWING and blocks.qsize() < READ_AHEAD // 2:
                await asyncio.sleep(MORE_SOON)

    async def _until_sent(self, job: Job, body: Mapping[str, Any], output: bytes = b"") -> None:
        """Send output as soon as Redis is there and the server keeps up: until then, the recording has it."""
        pause = FIRST_PAUSE
        while True:
            try:
                await self._is_read(job)
                await self._send(job, "output", body, output)
                return
            except GONE:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _is_read(self, job: Job) -> None:
        """Wait until the server of a job has read enough; another one may take it up meanwhile."""
        pause = READS_SOON
        while self.unread.get(job.server, 0) >= MOST_UNREAD:
            await asyncio.sleep(pause)
            pause = min(2 * pause, FIRST_PAUSE)
            server = job.server
            [self.unread[server]] = await self._sending.send(("XLEN", reply_stream(self.party.host, server)))

    async def _send(self, job: Job, kind: str, body: Mapping[str, Any], output: bytes = b"") -> None:
        stream = reply_stream(self.party.host, job.server)
        body = {"execution": job.execution, "agent": self.service.folder, **body}
        data = self.party.seal("server", kind, body, self.nonce(), self.now(), output)
        self.unread[job.server] = self.unread.get(job.server, 0) + 1
        counted = self.unread[job.server] >= COUNTED_FROM
        length = (("XLEN", stream),) if counted else ()
        *_, last = await self._sending.send(("XADD", stream, "*", "m", data), *self.expiry.renewal(stream), *length)
        if counted:
            self.unread[job.server] = last

    def _instruct(self, body: Mapping[str, Any]) -> None:
        job, instruction = self.jobs.get(str(body.get("execution"))), _instruction(body.get("instruction"))
        if job is None or instruction is None:
            return
        if isinstance(instruction, Stop):
            job.stopped = instruction.reason
        if job.begun:
            self._start(self._deliver(job, instruction, str(body.get("id") or "")))

    async def _deliver(self, job: Job, instruction: "Instruction | Part", id: str) -> None:
        """Deliver an instruction, and say what came of it."""
        if isinstance(instruction, Part):
            await self._take(job, instruction)
            return
        delivery = await self.service.local.deliver(job.execution, instruction)
        if id:
            await self._quietly(job, "instructed", {"id": id[:LONGEST_ID], "delivery": str(delivery)})

    async def _take(self, job: Job, part: "Part") -> None:
        """Pass on what is new of a part of standard input, and confirm how much has arrived."""
        if part.begin > job.input:
            return  # the one before it is sent again
        data = part.data[job.input - part.begin :]
        delivery = await self.service.local.deliver(job.execution, Write(data, part.last))
        taken = delivery is Delivery.DELIVERED
        job.input += len(data) if taken else 0
        closed = delivery is Delivery.CLOSED or (taken and part.last)
        await self._quietly(job, "input", {"upto": job.input, "closed": closed})

    async def close(self) -> None:
        """End what runs here, and close the connections. Raises nothing."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self._sending.close()

    def _lost(self, error: Exception) -> None:
        if not self._away:
            self.report(f"Redis is away ({type(error).__name__}): jobs do not arrive, output waits on disk.")
        self._away = True
        self.expiry.due.clear()  # it may have lost the streams

    def _over(self) -> None:
        if self._away:
            self.report("Redis is back.")
            self.back()
        self._away = False


@dataclass(frozen=True, slots=True)
class Known:
    """An execution that this host has begun before."""

    id: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of standard input, which begins behind the first `begin` bytes of it; with `last` nothing follows."""

    data: bytes
    begin: int
    last: bool


def _asked(message: bytes, body: Mapping[str, Any], *, new: bool) -> Job | None:
    """The job in a message, which is `new` if Redis never gave it to this host before; None if it is malformed."""
    execution, server, after, expires = (body.get(name) for name in ("execution", "server", "after", "expires"))
    if not (isinstance(execution, str) and EXECUTION.fullmatch(execution) and type(after) is int):
        return None
    if not (isinstance(server, str) and is_host_id(server) and isinstance(expires, int | float)):
        return None
    begins, first = body.get("begins", True) is True, new and body.get("first") is True
    return Job(execution, server, message, expires, begins, first, after=after)


def _instruction(body: Any) -> Instruction | Part | None:
    match body:
        case {"stop": str(reason)}:
            return Stop(StopReason(reason) if reason in set(StopReason) else StopReason.CANCELLED)
        case {"signal": str(name)} if name in set(SignalName):
            return Signal(SignalName(name))
        case {"write": str(text), "begin": int(begin), "last": bool(last)} if begin >= 0:
            return _part(text, begin, last=last)
        case _:
            return None


def _part(text: str, begin: int, *, last: bool) -> Part | None:
    try:
        return Part(b64decode(text, validate=True), begin, last)
    except ValueError:
        return None


async def _joined(blocks: "asyncio.Queue[bytes]") -> bytes:
    """The blocks that wait, as one; at least one of them. Empty when the empty one has come that is the last."""
    found = await blocks.get()
    while found and len(found) < JOINED and not blocks.empty():
        following = blocks.get_nowait()
        found += following
        if not following:
            blocks.put_nowait(b"")
            break
    return found


def _divided(block: bytes) -> tuple[bytes, bytes]:
    """The stored lines of output in a block, and those of its end."""
    output: list[bytes] = []
    others: list[bytes] = []
    for line in stored_lines(block):
        if not line.startswith(b'{"type":"started"'):  # of which the server has its own
            (output if line.startswith((b'{"type":"stdout"', b'{"type":"stderr"')) else others).append(line + b"\n")
    return b"".join(output), b"".join(others)


def _end(transcript: Transcript) -> dict[str, Any] | None:
    """The end in what was sent so far, with the problem before it."""
    complete, error = transcript.last("complete"), transcript.last("error")
    if not complete:
        return None
    found = {name: complete.get(name) for name in ENDED}
    return {**found, "error": error.get("message"), "rule": error.get("rule")}


def _refusal(decision: Decision) -> dict[str, Any]:
    words = " ".join(filter(None, (decision.reason, decision.hint)))
    return {"status": "denied", "error": words, "rule": decision.rule}


def _output(after: int, upto: int, end: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is said with the output of the messages behind `after`, up to `upto`."""
    return {"after": after, "upto": upto, "end": end}
