"""The jobs of an enrolled host: they arrive on its stream, run once each, and their recordings leave on another.

The execution of the server is the idempotency key of the execution here. So a job that arrives again, even after a restart,
is the same execution, and its recording on disk is sent from wherever the server asks for.
"""

import asyncio
import random
from base64 import b64decode
from collections.abc import Callable, Coroutine, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from backend.application.executions import ExecutionService
from backend.application.submission import CommandSpec, Existing, IdempotencyKey
from backend.core.decisions import Decision
from backend.core.execution.model import Delivery, Instruction, Signal, SignalName, Stop, StopReason, Write
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused, Waiting
from backend.core.hosts.commands import HostCommand
from backend.core.hosts.envelope import Envelope, Party
from backend.core.hosts.messages import LONGEST_ID, Dropped, SeenIds
from backend.core.hosts.naming import is_host_id, jobs_stream, reply_stream
from backend.core.identity import VISITOR_PERMISSIONS, Principal
from backend.core.ids import is_id
from backend.core.recording.batches import last_seq
from backend.core.recording.transcript import Transcript, pieces
from backend.host_agent.front import Front
from backend.host_agent.handlers import is_quick
from backend.host_agent.targets import LINES, target_of

GROUP, CONSUMER = "agent", "agent"
BLOCK = 1000  # milliseconds
BATCH = 32
PATIENCE = 5.0  # seconds for one exchange with Redis
MOST_UNREAD = 64  # messages that a server has not read; more wait in the recording
STREAM_TTL = 86400  # seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
MOST_JOBS = 512
GONE = (RedisError, OSError)
ENDED = ("status", "exit_code", "signal", "cpu_ms", "peak_memory_bytes", "read_bytes", "written_bytes", "protection")


@dataclass(slots=True)
class Job:
    """A job that is being run or sent: what follows on the message `after` of its recording `local`.

    One that is `late` is not begun, but its recording is sent if it began before. `input` is how much of its standard
    input has arrived, in bytes.
    """

    execution: str
    server: str
    late: bool
    task: "asyncio.Task[None] | None" = None
    sending: "asyncio.Task[None] | None" = None
    local: str = ""
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
    _away: bool = False

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
        try:
            found = await self.client.xreadgroup(GROUP, CONSUMER, {stream: start}, count=BATCH, block=BLOCK)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.client.xgroup_create(stream, GROUP, id="0", mkstream=True)
            return "0"
        entries = found[0][1] if found else []
        for id, fields in entries:
            self._receive(id, fields or {})
        if start == ">" or not entries:
            return ">"
        return str(entries[-1][0].decode())

    def _receive(self, id: bytes, fields: Mapping[bytes, bytes]) -> None:
        message = self.party.open(fields.get(b"m", b""), "host", self.now(), self.seen)
        match message:
            case Envelope("run", body):
                self._run(id, body)
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
        self._start(self._acknowledge(id))

    async def _acknowledge(self, id: bytes) -> None:
        """Delete a message. One that stays because Redis is away arrives again and is known."""
        stream = jobs_stream(self.party.host)
        with suppress(*GONE):
            async with asyncio.timeout(PATIENCE):
                pipeline = self.client.pipeline(transaction=False)
                pipeline.xack(stream, GROUP, id)
                pipeline.xdel(stream, id)
                await pipeline.execute()

    def _run(self, id: bytes, body: Mapping[str, Any]) -> None:
        execution, server, after = body.get("execution"), body.get("server"), body.get("after")
        if not (is_id(execution) and isinstance(server, str) and is_host_id(server) and type(after) is int):
            self._ack(id)
            self.record(Dropped("a job is malformed"))
            return
        assert isinstance(execution, str)
        job = self.jobs.get(execution)
        if job and job.task and not job.task.done():
            self._ack(id)  # it waits or is being sent; the other message of it is acknowledged when it has begun
            self._again(job, server, after)
        elif len(self.jobs) < MOST_JOBS:
            late = self.now() > body["expires"] if type(body.get("expires")) is int else True
            job = self.jobs[execution] = Job(execution, server, late, after=after)
            job.task = self._start(self._serve(job, body, id))
            job.task.add_done_callback(lambda _: self.jobs.pop(execution, None))

    def _again(self, job: Job, server: str, after: int) -> None:
        """Send what follows on `after`, or that the job is alive if the server has all. Another server has taken it up."""
        moved, job.server = server != job.server, server
        if job.local and (after < job.after or moved) and job.sending:
            job.after = after
            job.sending.cancel()
        else:
            self._start(self._quietly(job, "alive", {"begun": bool(job.local)}))

    async def _quietly(self, job: Job, kind: str, body: Mapping[str, Any]) -> None:
        with suppress(*GONE):
            await self._send(job, kind, body)

    async def _serve(self, job: Job, body: Mapping[str, Any], id: bytes) -> None:
        """Begin a job when its turn has come, and send its recording."""
        quick = is_quick(self.front.handlers.get(str(body.get("command"))))
        async with nullcontext() if quick else self.front.free:
            started = await self._begin(job, body)
            await self._acknowledge(id)
            if not isinstance(started, Decision):
                job.local = started.id
                job.sending = asyncio.ensure_future(self._follow(job))
            if isinstance(started, Execution) and started.task:
                await asyncio.wait({started.task})
        if isinstance(started, Decision):
            await self._until_sent(job, "output", _refusal(job, started))
        else:
            await self._all_sent(job)

    async def _all_sent(self, job: Job) -> None:
        """Wait until the recording is sent; from an earlier message on where the server asks for it."""
        while job.sending:
            await asyncio.wait({job.sending})
            if not job.sending.cancelled():
                job.sending.result()
                return
            job.sending = asyncio.ensure_future(self._follow(job))

    async def _begin(self, job: Job, body: Mapping[str, Any]) -> Execution | Waiting | Existing | Decision:
        """Start a job, or find it started."""
        name, params = body.get("command"), body.get("params")
        if not (isinstance(name, str) and isinstance(params, dict)):
            return Decision.deny("host.parameters", "The job is malformed.")
        if job.stopped:
            return Decision.deny("host.stopped", "The job was stopped before it began.")
        try:
            line, target = target_of(HostCommand(name, params), self.front.handlers)
        except ValueError as error:
            return Decision.deny("host.parameters", f"{error}.")
        key = IdempotencyKey(job.execution, b"")
        who = Principal(f"server:{body.get('actor')}"[:128], "redis", VISITOR_PERMISSIONS)
        if job.late and not await self._began(who, key):
            return Decision.deny("host.expired", "The job reached this host too late, and was not begun.")
        seconds = self._timeout(name, body.get("timeout"))
        reads = target == LINES and body.get("stdin") is True
        spec = CommandSpec(line, target, timeout=seconds, stdin=reads, detached=True, client_ref=key.key)
        started = await self.service.submit(who, spec, key)
        if isinstance(started, Refused):
            return started.decision
        if isinstance(started, Execution):
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

    async def _began(self, who: Principal, key: IdempotencyKey) -> bool:
        """Whether a job has begun before: its key is not free."""
        keys, id = self.service.submission.keys, self.service.submission.new_id()
        claim = await keys.claim(who.name, key.key, key.body_hash, id)
        if claim.mine:
            await keys.release(who.name, key.key, id)
        return not claim.mine

    async def _follow(self, job: Job) -> None:
        """Send the recording from `after` on, to its end."""
        transcript = Transcript()

        async def send(block: bytes) -> None:
            upto = last_seq(block)
            await transcript.add(b"".join(line for line in block.splitlines(True) if not _is_output(line)))
            end = _end(transcript)
            parts = [[stream, text] for stream, text in pieces(block)]
            await self._until_sent(job, "output", {"after": job.after, "upto": upto, "parts": parts, "end": end})
            job.after = upto

        problem = await self.service.follow_started(job.local, job.after, send)
        if problem:
            end = {"status": "lost", "error": problem.reason, "rule": problem.rule}
            body = {"after": job.after, "upto": job.after, "parts": [], "end": end}
            await self._until_sent(job, "output", body)

    async def _until_sent(self, job: Job, kind: str, body: Mapping[str, Any]) -> None:
        """Send a message as soon as Redis is there and the server keeps up: until then, the recording has it."""
        pause = FIRST_PAUSE
        while True:
            try:
                while await self._unread(job) >= MOST_UNREAD:
                    await asyncio.sleep(FIRST_PAUSE)
                await self._send(job, kind, body)
                return
            except GONE:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _unread(self, job: Job) -> int:
        async with asyncio.timeout(PATIENCE):
            return int(await self.client.xlen(reply_stream(self.party.host, job.server)))

    async def _send(self, job: Job, kind: str, body: Mapping[str, Any]) -> None:
        stream = reply_stream(self.party.host, job.server)
        data = self.party.seal("server", kind, {"execution": job.execution, **body}, self.nonce(), self.now())
        async with asyncio.timeout(PATIENCE):
            pipeline = self.client.pipeline(transaction=False)
            pipeline.xadd(stream, {"m": data})
            pipeline.expire(stream, STREAM_TTL)
            await pipeline.execute()

    def _instruct(self, body: Mapping[str, Any]) -> None:
        job, instruction = self.jobs.get(str(body.get("execution"))), _instruction(body.get("instruction"))
        if job is None or instruction is None:
            return
        if isinstance(instruction, Stop):
            job.stopped = instruction.reason
        if job.local:
            self._start(self._deliver(job, instruction, str(body.get("id") or "")))

    async def _deliver(self, job: Job, instruction: "Instruction | Part", id: str) -> None:
        """Deliver an instruction, and say what came of it."""
        if isinstance(instruction, Part):
            await self._take(job, instruction)
            return
        delivery = await self.service.local.deliver(job.local, instruction)
        if id:
            await self._quietly(job, "instructed", {"id": id[:LONGEST_ID], "delivery": str(delivery)})

    async def _take(self, job: Job, part: "Part") -> None:
        """Pass on what is new of a part of standard input, and confirm how much has arrived."""
        if part.begin > job.input:
            return  # the one before it is sent again
        data = part.data[job.input - part.begin :]
        delivery = await self.service.local.deliver(job.local, Write(data, part.last))
        taken = delivery is Delivery.DELIVERED
        job.input += len(data) if taken else 0
        closed = delivery is Delivery.CLOSED or (taken and part.last)
        await self._quietly(job, "input", {"upto": job.input, "closed": closed})

    async def close(self) -> None:
        """End what runs here, and close the connections. Raises nothing."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        with suppress(*GONE):
            await self.client.aclose(close_connection_pool=True)

    def _lost(self, error: Exception) -> None:
        if not self._away:
            self.report(f"Redis is away ({type(error).__name__}): jobs do not arrive, output waits on disk.")
        self._away = True

    def _over(self) -> None:
        if self._away:
            self.report("Redis is back.")
            self.back()
        self._away = False


@dataclass(frozen=True, slots=True)
class Part:
    """A part of standard input, which begins behind the first `begin` bytes of it; with `last` nothing follows."""

    data: bytes
    begin: int
    last: bool


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


def _is_output(line: bytes) -> bool:
    return line.startswith((b'{"type":"stdout"', b'{"type":"stderr"'))


def _end(transcript: Transcript) -> dict[str, Any] | None:
    """The end in what was sent so far, with the problem before it."""
    complete, error = transcript.last("complete"), transcript.last("error")
    if not complete:
        return None
    found = {name: complete.get(name) for name in ENDED}
    return {**found, "error": error.get("message"), "rule": error.get("rule")}


def _refusal(job: Job, decision: Decision) -> dict[str, Any]:
    words = " ".join(filter(None, (decision.reason, decision.hint)))
    end = {"status": "denied", "error": words, "rule": decision.rule}
    return {"after": job.after, "upto": job.after, "parts": [], "end": end}
