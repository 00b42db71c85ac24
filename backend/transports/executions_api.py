"""Executions as resources: start, list, look at, read, follow, cancel, feed, signal; and ask the policy."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi import Path as PathParameter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from backend.core import ids
from backend.core.audit.attempts import Record
from backend.core.errors import StorageError
from backend.core.execution import model as core
from backend.core.execution.gateway import Execution, Gateway
from backend.core.execution.model import Status, Stop
from backend.core.identity import Permission, Principal
from backend.core.policy.admit import Plan
from backend.core.ports import ExecutionHistory, Filter
from backend.core.recording.stored import Send, first_seq, read_batch
from backend.core.recording.transcript import Index, Read, Slice, read_slice
from backend.transports.agent_api import HistoryEntry, entry
from backend.transports.dependencies import Access, Body, JsonOnly
from backend.transports.problems import WITH_BODY, Problem, described
from backend.transports.starting import KEY_HEADER, STARTING, Starter
from backend.transports.turns import in_turns

KEEP_ALIVE = 15.0  # seconds of silence after which a stream says that it lives
RECHECK_EVERY = 5.0  # seconds between two looks whether the token of a stream is still good
BLOCKS_WAITING = 4  # blocks between the recording and a slow reader
LONGEST_SLICE = 1 << 20  # bytes
MOST_STREAMS = 64  # of events, for an account at once; each holds a connection and an open file
INDEXES = 64  # recordings whose index is remembered, those that were read last

ExecutionId = Annotated[str, PathParameter(pattern=ids.PATTERN)]
SIGNALS = {name: getattr(signal, f"SIG{name}") for name in ("HUP", "INT", "QUIT", "TERM", "KILL", "USR1", "USR2")}


class EventStream(StreamingResponse):
    """Server-sent events."""

    media_type = "text/event-stream"


class Start(Body):
    """A command to start. Without `project_id` it runs in the caller's own place; `timeout` is in seconds."""

    project_id: str | None = Field(default=None, min_length=1, max_length=64)
    command: str = Field(min_length=1, max_length=1000)
    working_dir: str = Field(default=".", max_length=1024)
    timeout: int | None = Field(default=None, ge=1, le=86400)
    dry_run: bool = False
    metadata_only: bool = False
    stdin: bool = False


class Started(BaseModel):
    """Where to find what was started."""

    id: str
    status: str
    url: str


class Page(BaseModel):
    """Executions, newest first. `next_before` asks for the next page; null on the last."""

    executions: list[HistoryEntry]
    next_before: str | None


class Output(BaseModel):
    """A part of the output. Offsets and sizes are bytes of UTF-8; `completed` says that no more will come."""

    data: str
    offset: int
    next_offset: int
    completed: bool
    total_size: int


class Input(Body):
    """Text for the standard input, and whether it is the last."""

    data: str = Field(default="", max_length=65536)
    close: bool = False


class Signal(Body):
    """A signal for all processes of a command."""

    signal: Literal["HUP", "INT", "QUIT", "TERM", "KILL", "USR1", "USR2"]


class Question(Body):
    """A command to judge without running it."""

    project_id: str | None = Field(default=None, min_length=1, max_length=64)
    command: str = Field(min_length=1, max_length=1000)
    working_dir: str = Field(default=".", max_length=1024)


class Explained(BaseModel):
    """The verdict. `commands` are those of the line as they would run, globs expanded; empty when it is refused."""

    allowed: bool
    rule: str
    risk: str
    reason: str
    hint: str
    commands: list[list[str]]


@dataclass(frozen=True, slots=True)
class Executions:
    """What the routes work with.

    `index` is what is known of where in a recording which output stands, `streams` counts those of each principal.
    """

    access: Access
    gateway: Gateway
    starter: Starter
    history: ExecutionHistory
    index: Callable[[str], Index] = field(default_factory=lambda: lru_cache(INDEXES)(lambda _: Index()))
    streams: Counter[str] = field(default_factory=Counter)

    async def record(self, principal: Principal, id: str) -> Record:
        """A record that exists for the caller. Raises Problem."""
        record = await self.history.get(id)
        if record is None or not await self.access.directory.may_watch(principal, id):
            raise _unknown(id)
        return record

    async def running(self, principal: Principal, id: str) -> Execution:
        """One that runs and that the caller may touch. Raises Problem."""
        record = await self.history.get(id)
        mine = record is not None and record.principal == principal.name
        if record is None or not (mine or await self.access.directory.may_watch(principal, id)):
            raise _unknown(id)
        if not principal.may(Permission.EXECUTE):
            raise Problem(403, "role.forbidden", "You may look at this execution, but not touch it.")
        found = self.gateway.find(id)
        if found is None:
            raise _elsewhere(id) if record.status is Status.RUNNING else _ended(id)
        return found


def _unknown(id: str) -> Problem:
    hint = "GET /api/executions lists those that are there for you."
    return Problem(404, "execution.unknown", f"There is no execution {id} for you.", hint=hint)


def _elsewhere(id: str) -> Problem:
    hint = "Ask the server that started it, or wait for its end."
    return Problem(409, "execution.elsewhere", f"The execution {id} runs in another server process.", hint=hint)


def _ended(id: str) -> Problem:
    hint = f"GET /api/executions/{id} tells how it ended."
    return Problem(409, "execution.not_running", f"The execution {id} does not run any more.", hint=hint)


def execution_routes(executions: Executions) -> APIRouter:
    """The routes under /api/executions, and /api/policy/explain."""
    router = APIRouter(prefix="/api", tags=["executions"])
    _add_starting(router, executions)
    _add_explaining(router, executions)
    _add_looking(router, executions)
    _add_reading(router, executions)
    _add_touching(router, executions)
    return router


def _add_starting(router: APIRouter, executions: Executions) -> None:
    access = executions.access

    @router.post("/executions", status_code=202, responses=described(*WITH_BODY, *STARTING))
    async def start(
        principal: Annotated[Principal, Depends(access.caller)],
        body: Start,
        response: Response,
        _: JsonOnly,
        key: KEY_HEADER = None,
    ) -> Started:
        """Start a command and return at once."""
        started = await executions.starter.start(access.directory, principal, body, key, stdin=body.stdin)
        id = started if isinstance(started, str) else started.id
        known = await executions.history.get(id) if isinstance(started, str) else None
        url = f"/api/executions/{id}"
        response.headers["location"] = url
        return Started(id=id, status=known.status if known else Status.RUNNING, url=url)


def _add_explaining(router: APIRouter, executions: Executions) -> None:
    access = executions.access

    @router.post("/policy/explain", tags=["policy"], responses=described(*WITH_BODY, 403, 404))
    async def explain(
        principal: Annotated[Principal, Depends(access.needs(Permission.READ))], body: Question, _: JsonOnly
    ) -> Explained:
        """The verdict on a command, without running it."""
        target = await access.target(principal, body.project_id)
        verdict = await executions.gateway.explain(core.Request(principal, target, body.command, cwd=body.working_dir))
        plan = verdict if isinstance(verdict, Plan) else None
        decision = verdict.decision if isinstance(verdict, Plan) else verdict
        return Explained(
            allowed=decision.allowed,
            rule=decision.rule,
            risk=decision.risk,
            reason=decision.reason,
            hint=decision.hint,
            commands=[list(argv) for argv in plan.argvs] if plan else [],
        )


def _add_looking(router: APIRouter, executions: Executions) -> None:
    access = executions.access
    reader = Depends(access.needs(Permission.READ))

    @router.get("/executions", responses=described(403, 404, 422))
    async def page(
        principal: Annotated[Principal, reader],
        project_id: Annotated[str | None, Query(max_length=64)] = None,
        status: Status | None = None,
        before: Annotated[str | None, Query(pattern=ids.PATTERN)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        everyone: bool = False,
    ) -> Page:
        """Executions, newest first: the caller's own, those of a project, or, for administrators, `everyone`'s."""
        wanted = Filter(status=status, before=before, limit=limit + 1)
        found = await executions.history.page(await _scoped(access, principal, wanted, project_id, everyone))
        more = found[limit - 1].id if len(found) > limit else None
        return Page(executions=[entry(record) for record in found[:limit]], next_before=more)

    @router.get("/executions/{execution}", responses=described(403, 404, 422))
    async def one(principal: Annotated[Principal, reader], execution: ExecutionId) -> HistoryEntry:
        """One execution."""
        return entry(await executions.record(principal, execution))


def _add_reading(router: APIRouter, executions: Executions) -> None:
    reader = Depends(executions.access.needs(Permission.READ))

    @router.get("/executions/{execution}/output", responses=described(403, 404, 422))
    async def output(
        principal: Annotated[Principal, reader],
        execution: ExecutionId,
        offset: Annotated[int, Query(ge=0, le=1 << 40)] = 0,
        limit: Annotated[int, Query(ge=4, le=LONGEST_SLICE)] = 65536,
        stream: Literal["stdout", "stderr", "both"] = "both",
    ) -> Output:
        """A part of the output so far."""
        record = await executions.record(principal, execution)
        streams = frozenset({"stdout", "stderr"} if stream == "both" else {stream})
        part = Slice(streams, offset, limit)
        kept = await read_slice(_reading(executions.gateway, execution), executions.index(execution), part)
        return Output(
            data=part.data,
            offset=offset,
            next_offset=part.next_offset,
            completed=part.ended if kept else record.status is not Status.RUNNING,
            total_size=part.total,
        )

    @router.get(
        "/executions/{execution}/events",
        response_class=EventStream,
        responses={**described(403, 404, 410, 422, 429), 204: {"description": "Nothing comes after `Last-Event-ID`."}},
    )
    async def events(
        principal: Annotated[Principal, reader],
        execution: ExecutionId,
        last_event_id: Annotated[str | None, Header(pattern="^[0-9]{1,15}$")] = None,
    ) -> Response:
        """The messages of an execution as server-sent events, live, until its end. `Last-Event-ID` resumes."""
        record = await executions.record(principal, execution)
        _recorded(executions.gateway, execution)
        _check_streams(executions.streams[principal.name])
        stream = _events(executions, principal, execution, int(last_event_id or 0))
        if last_event_id and record.status is not Status.RUNNING:
            begin = await anext(stream, b"")
            if not begin:
                return Response(status_code=204)  # else a browser would ask again and again
            stream = _begun(begin, stream)
        return EventStream(stream, headers={"cache-control": "no-store"})


async def _scoped(
    access: Access, principal: Principal, wanted: Filter, project_id: str | None, everyone: bool
) -> Filter:
    user_id = principal.user.id if principal.user else ""
    if project_id is not None:
        await access.target(principal, project_id)
        return Filter(None, frozenset({project_id}), wanted.status, wanted.before, wanted.limit)
    if everyone and not principal.may(Permission.ADMIN):
        raise Problem(403, "role.forbidden", "Only administrators see the executions of everyone.")
    return Filter(None if everyone else user_id, None, wanted.status, wanted.before, wanted.limit)


def _recorded(gateway: Gateway, execution: str) -> None:
    """Raises Problem where there is no recording."""
    try:
        found = gateway.recordings.find(execution)
    except OSError as error:
        raise _unreadable(error) from error
    if found is None:
        detail = "Nothing of this execution was recorded, or it is not kept."
        raise Problem(410, "execution.forgotten", detail, hint=f"GET /api/executions/{execution} tells how it ended.")


def _check_streams(followed: int) -> None:
    """Raises Problem where an account follows too many executions."""
    if followed >= MOST_STREAMS:
        detail = f"You follow {MOST_STREAMS} executions already."
        raise Problem(429, "limits.watching", detail, hint="Close a stream, or wait for its end.", retry_after=5)


async def _begun(begin: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield begin
    async for block in rest:
        yield block


def _unreadable(error: OSError) -> Problem:
    detail = f"The recording cannot be read: {error.strerror}."
    return Problem(503, "recording.unavailable", detail, hint="Ask the operator to look at the disk.", retry_after=5)


def _reading(gateway: Gateway, execution: str) -> Read:
    """Reads what is stored now."""

    async def read(send: Send, begin: int, end: int | None) -> int | None:
        try:
            return await gateway.read(execution, in_turns(send), begin, end)
        except OSError as error:
            raise _unreadable(error) from error

    return read


async def _events(executions: Executions, principal: Principal, id: str, after_seq: int) -> AsyncIterator[bytes]:
    """Server-sent events; the number of the last line of each is its id. They end with the right to see them."""
    blocks: asyncio.Queue[bytes] = asyncio.Queue(BLOCKS_WAITING)
    following = asyncio.create_task(executions.gateway.follow(id, after_seq, blocks.put))
    clock = asyncio.get_running_loop().time
    spoke = checked = clock()
    executions.streams[principal.name] += 1
    try:
        while not (following.done() and blocks.empty()):
            block = await _next(blocks, following, RECHECK_EVERY)
            if clock() - checked >= RECHECK_EVERY:
                checked = clock()
                if not await _may_go_on(executions, principal, id):
                    return
            if block:
                yield _as_events(block)
            elif clock() - spoke >= KEEP_ALIVE:
                yield b": still here\n\n"
            else:
                continue
            spoke = clock()
    finally:
        following.cancel()
        executions.streams[principal.name] -= 1
        if not executions.streams[principal.name]:
            del executions.streams[principal.name]


async def _may_go_on(executions: Executions, principal: Principal, id: str) -> bool:
    """Whether its token is good yet and the execution still exists for it; while nobody can tell, it does."""
    access = executions.access
    try:
        valid = await access.door.authenticator.is_valid(principal)
        return valid and await access.directory.may_watch(principal, id)
    except StorageError:
        return True


async def _next(blocks: asyncio.Queue[bytes], following: asyncio.Task[bool], seconds: float) -> bytes:
    """The next block; empty when none comes in time, or none will."""
    getting = asyncio.create_task(blocks.get())
    try:
        await asyncio.wait([getting, following], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return getting.result() if getting.done() else b""
    finally:
        getting.cancel()


def _as_events(block: bytes) -> bytes:
    lines: Sequence[bytes] = block.splitlines()
    return b"".join(b"id: %d\ndata: %b\n\n" % (_last_seq(line), line) for line in lines)


def _last_seq(line: bytes) -> int:
    batch = read_batch(line)
    return first_seq(line) + (len(batch.lines) - 1 if batch else 0)


def _add_touching(router: APIRouter, executions: Executions) -> None:
    caller = Depends(executions.access.caller)

    @router.post("/executions/{execution}/cancel", status_code=202, responses=described(403, 404, 409, 422))
    async def cancel(principal: Annotated[Principal, caller], execution: ExecutionId) -> dict[str, str]:
        """Stop a command: SIGTERM, and SIGKILL two seconds later."""
        found = await executions.running(principal, execution)
        found.control.stop(Stop.CANCELLED, principal.name)
        return {"id": execution, "status": "cancelling"}

    @router.post("/executions/{execution}/stdin", status_code=202, responses=described(*WITH_BODY, 403, 404, 409))
    async def stdin(
        principal: Annotated[Principal, caller], execution: ExecutionId, body: Input, _: JsonOnly
    ) -> dict[str, Any]:
        """Write to the standard input of a command that was started with `stdin: true`."""
        inbox = (await executions.running(principal, execution)).control.stdin
        if inbox.closed:
            detail, hint = "The standard input of this command is closed.", "Start it with `stdin` to have it open."
            raise Problem(409, "stdin.closed", detail, hint=hint)
        if body.data and not inbox.put(body.data.encode("utf-8", "replace")):
            detail = "The command does not read its input, and no more of it is kept."
            raise Problem(409, "stdin.full", detail, hint="Wait until it reads, or cancel it.")
        if body.close:
            inbox.close()
        return {"id": execution, "waiting_bytes": len(inbox.waiting)}

    @router.post("/executions/{execution}/signal", status_code=202, responses=described(*WITH_BODY, 403, 404, 409))
    async def send_signal(
        principal: Annotated[Principal, caller], execution: ExecutionId, body: Signal, _: JsonOnly
    ) -> dict[str, str]:
        """Send a signal to all processes of a command."""
        found = await executions.running(principal, execution)
        found.control.on_signal(SIGNALS[body.signal])
        return {"id": execution, "signal": body.signal}
