"""Executions as resources: start, list, view, read, follow, cancel, feed, signal; and ask the policy."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi import Path as PathParameter
from pydantic import Field
from slowapi import Limiter

from backend.application.executions import ExecutionService
from backend.application.submission import CommandSpec, Existing
from backend.core import ids
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.execution.model import (
    Delivery,
    Instruction,
    Resize,
    Signal,
    SignalName,
    Status,
    Stop,
    StopReason,
    Write,
)
from backend.core.execution.refusals import undelivered
from backend.core.execution.requests import Waiting
from backend.core.execution.targets import TARGET_PATTERN, TargetRef, target_ref
from backend.core.identity import Permission, Principal
from backend.core.limits import Budget
from backend.core.policy.admit import Plan
from backend.core.ports import Filter
from backend.core.recording.transcript import Slice
from backend.transports.dependencies import Access, Answer, Body, JsonOnly, check_query, granted
from backend.transports.event_streams import EventStream, EventStreams
from backend.transports.problems import WITH_BODY, Problem, described
from backend.transports.routing import new_router
from backend.transports.schemas import (
    KEY_HEADER,
    LINE,
    SESSION,
    STARTING,
    HistoryEntry,
    Started,
    Targeted,
    entry,
    started_by,
)

LONGEST_SLICE = 1 << 20  # bytes

ExecutionId = Annotated[str, PathParameter(pattern=ids.PATTERN)]


class Start(Targeted):
    """A command to start. `timeout` is in seconds.

    `stdin` is all that its standard input holds, or true where that is sent later.
    """

    command: str = LINE
    working_dir: str = Field(default=".", max_length=1024)
    timeout: int | None = Field(default=None, ge=1, le=86400)
    dry_run: bool = False
    metadata_only: bool = False
    stdin: bool | Annotated[str, Field(max_length=65536)] = False
    session: str | None = SESSION


class Page(Answer):
    """Executions, newest first. `next_before` asks for the next page; null on the last."""

    executions: list[HistoryEntry]
    next_before: str | None


class Output(Answer):
    """A part of the output. Offsets and sizes are bytes of UTF-8; `completed` says that no more will come."""

    data: str
    offset: int
    next_offset: int
    completed: bool
    total_size: int


class Input(Body):
    """Text for the standard input, and whether more follows."""

    data: str = Field(default="", max_length=65536)
    close: bool = False


class SendSignal(Body):
    """A signal for all processes of a command."""

    signal: Literal["HUP", "INT", "QUIT", "TERM", "KILL", "USR1", "USR2"]


class TerminalSize(Body):
    """The size of the client's terminal, in characters."""

    columns: int = Field(ge=1, le=10_000)
    rows: int = Field(ge=1, le=10_000)


class Question(Targeted):
    """A command to judge without running it."""

    command: str = LINE
    working_dir: str = Field(default=".", max_length=1024)


class Explained(Answer):
    """The verdict. `commands` are those of the line as they would run, globs expanded; empty when it is refused."""

    allowed: bool
    rule: str
    risk: str
    reason: str
    hint: str
    commands: list[list[str]]


class LeftOf(Answer):
    """`remaining` of `limit` in a window of `seconds`; one more in `reset` seconds, which is 0 while nothing is used."""

    limit: int
    seconds: int
    remaining: int
    reset: float

    @classmethod
    def of(cls, budget: Budget) -> "LeftOf":
        rate = budget.rate
        return cls(limit=rate.count, seconds=rate.seconds, remaining=budget.remaining, reset=round(budget.reset, 1))


class Limits(Answer):
    """What is left of the rates."""

    commands: LeftOf
    checks: LeftOf


@dataclass(frozen=True, slots=True)
class Executions:
    """What the routes need."""

    access: Access
    service: ExecutionService


def execution_routes(executions: Executions, limiter: Limiter, rate: str) -> APIRouter:
    """The routes under /api/executions, /api/policy/explain and /api/limits."""
    router = new_router("executions", "/api")
    _add_starting(router, executions)
    _add_explaining(router, executions)
    _add_limits(router, executions, limiter, rate)
    _add_looking(router, executions)
    _add_output(router, executions)
    _add_events(router, executions)
    _add_cancel(router, executions)
    _add_instructions(router, executions)
    return router


def _add_starting(router: APIRouter, executions: Executions) -> None:
    service = executions.service

    @router.post("/executions", status_code=202, responses=described(*WITH_BODY, *STARTING))
    async def start(
        principal: Annotated[Principal, Depends(executions.access.caller)],
        body: Start,
        response: Response,
        _: JsonOnly,
        key: KEY_HEADER = None,
    ) -> Started:
        """Start a command and return at once."""
        spec = CommandSpec(
            body.command,
            body.ref,
            cwd=body.working_dir,
            timeout=body.timeout,
            dry_run=body.dry_run,
            stdin=body.stdin is True,
            detached=True,
            metadata_only=body.metadata_only,
            input=body.stdin.encode("utf-8", "replace") if isinstance(body.stdin, str) else b"",
            session=granted(service.session(principal, body.session)) if body.session else None,
        )
        started = await started_by(service, principal, spec, key, body.model_dump_json())
        known = await service.view(principal, started.id) if isinstance(started, Existing) else None
        first = Status.QUEUED if isinstance(started, Waiting) else Status.RUNNING
        status = first if known is None or isinstance(known, Decision) else known.status
        url = f"/api/executions/{started.id}"
        response.headers["location"] = url
        return Started(id=started.id, status=status, url=url)


def _add_explaining(router: APIRouter, executions: Executions) -> None:
    reader = Depends(executions.access.needs(Permission.READ))

    @router.post("/policy/explain", tags=["policy"], responses=described(*WITH_BODY, 403, 404))
    async def explain(principal: Annotated[Principal, reader], body: Question, _: JsonOnly) -> Explained:
        """The verdict on a command, without running it."""
        spec = CommandSpec(body.command, body.ref, cwd=body.working_dir)
        verdict = await executions.service.explain(principal, spec)
        if isinstance(verdict, Decision) and (problem := Problem.of(verdict)).status != 400:
            raise problem  # no such target, too many, or unavailable: no verdict on the command
        decision = verdict.decision if isinstance(verdict, Plan) else verdict
        return Explained(
            allowed=decision.allowed,
            rule=decision.rule,
            risk=decision.risk,
            reason=decision.reason,
            hint=decision.hint,
            commands=[list(argv) for argv in verdict.argvs] if isinstance(verdict, Plan) else [],
        )


def _add_limits(router: APIRouter, executions: Executions, limiter: Limiter, rate: str) -> None:
    @router.get("/limits", tags=["policy"], responses=described())
    @limiter.limit(rate)
    async def limits(request: Request, response: Response) -> Limits:
        """How many commands and checks the caller has left; for a visitor, those of its address."""
        principal = await executions.access.client(request)
        await check_query(request)
        commands, checks = granted(await executions.service.left(principal))
        return Limits(commands=LeftOf.of(commands), checks=LeftOf.of(checks))


def _add_looking(router: APIRouter, executions: Executions) -> None:
    service = executions.service
    reader = Depends(executions.access.needs(Permission.READ))

    @router.get("/executions", responses=described(403, 404))
    async def page(
        principal: Annotated[Principal, reader],
        project_id: Annotated[str | None, Query(max_length=64)] = None,
        target: Annotated[str | None, Query(pattern=TARGET_PATTERN)] = None,
        schedule: Annotated[str | None, Query(pattern=ids.PATTERN)] = None,
        status: Status | None = None,
        before: Annotated[str | None, Query(pattern=ids.PATTERN)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        everyone: bool = False,
    ) -> Page:
        """Executions, newest first: the caller's own, those of a project, or, for administrators, `everyone`'s.

        With a `target` that is no project only those that ran there, with a `schedule` those that it started.
        """
        query = Filter(schedule=schedule, status=status, before=before, limit=limit + 1)
        found = granted(await service.page(principal, query, _queried(project_id, target), everyone=everyone))
        more = found[limit - 1].id if len(found) > limit else None
        return Page(executions=[entry(record) for record in found[:limit]], next_before=more)

    @router.get("/executions/{execution}", responses=described(403, 404))
    async def one(principal: Annotated[Principal, reader], execution: ExecutionId) -> HistoryEntry:
        """One execution."""
        return entry(granted(await service.view(principal, execution)))


def _queried(project: str | None, target: str | None) -> TargetRef:
    """The target of a query. Raises Problem."""
    try:
        return target_ref(project, target)
    except ValueError as error:
        raise Problem(422, "request.invalid", f"The request cannot be understood: query: {error}.") from error


def _add_output(router: APIRouter, executions: Executions) -> None:
    service = executions.service
    reader = Depends(executions.access.needs(Permission.READ))

    @router.get("/executions/{execution}/output", responses=described(403, 404))
    async def output(
        principal: Annotated[Principal, reader],
        execution: ExecutionId,
        offset: Annotated[int, Query(ge=0, le=1 << 40)] = 0,
        limit: Annotated[int, Query(ge=4, le=LONGEST_SLICE)] = 65536,
        stream: Literal["stdout", "stderr", "both"] = "both",
    ) -> Output:
        """A part of the output so far."""
        streams = frozenset({"stdout", "stderr"} if stream == "both" else {stream})
        found = granted(await service.read_output(principal, execution, Slice(streams, offset, limit)))
        return Output(
            data=found.part.data,
            offset=offset,
            next_offset=found.part.next_offset,
            completed=found.completed,
            total_size=found.part.total,
        )


def _add_events(router: APIRouter, executions: Executions) -> None:
    streams = EventStreams(executions.service)

    @router.get(
        "/executions/{execution}/events",
        response_class=EventStream,
        responses={**described(403, 404, 410, 429), 204: {"description": "Nothing comes after `Last-Event-ID`."}},
    )
    async def events(
        principal: Annotated[Principal, Depends(executions.access.needs(Permission.READ))],
        execution: ExecutionId,
        last_event_id: Annotated[str | None, Header(pattern="^[0-9]{1,15}$")] = None,
    ) -> Response:
        """The messages of an execution as server-sent events, live, until its end. `Last-Event-ID` resumes."""
        recording = granted(await executions.service.recording(principal, execution))
        return await streams.respond(principal, recording, last_event_id)


async def _instruct(service: ExecutionService, principal: Principal, id: str, instruction: Instruction) -> Delivery:
    """Deliver an instruction. Raises Problem for one that had no effect."""
    delivery = granted(await service.instruct(principal, id, instruction))
    if problem := undelivered(instruction, delivery, id):
        raise Problem.of(problem)
    return delivery


def _add_cancel(router: APIRouter, executions: Executions) -> None:
    service = executions.service

    @router.post("/executions/{execution}/cancel", status_code=202, responses=described(403, 404))
    async def cancel(
        principal: Annotated[Principal, Depends(executions.access.caller)], execution: ExecutionId
    ) -> dict[str, str]:
        """Stop a command: SIGTERM, and SIGKILL two seconds later. One that has ended is not changed."""
        stop = Stop(StopReason.CANCELLED, principal.name)
        if await _instruct(service, principal, execution, stop) is Delivery.DELIVERED:
            return {"id": execution, "status": "cancelling"}
        record = await service.view(principal, execution)
        ended = {} if isinstance(record, Decision) else {"status": record.status}
        return {"id": execution, **ended}


def _add_instructions(router: APIRouter, executions: Executions) -> None:
    caller = Depends(executions.access.caller)
    service = executions.service

    @router.post("/executions/{execution}/stdin", status_code=202, responses=described(*WITH_BODY, 403, 404, 409))
    async def stdin(
        principal: Annotated[Principal, caller], execution: ExecutionId, body: Input, _: JsonOnly
    ) -> dict[str, Any]:
        """Write to the standard input of a command that was started with `stdin: true`."""
        await _instruct(service, principal, execution, Write(body.data.encode("utf-8", "replace"), last=body.close))
        return {"id": execution, "waiting_bytes": service.waiting_input(execution)}

    @router.post("/executions/{execution}/signal", status_code=202, responses=described(*WITH_BODY, 403, 404, 409))
    async def send_signal(
        principal: Annotated[Principal, caller], execution: ExecutionId, body: SendSignal, _: JsonOnly
    ) -> dict[str, str]:
        """Send a signal to all processes of a command."""
        await _instruct(service, principal, execution, Signal(SignalName(body.signal)))
        return {"id": execution, "signal": body.signal}

    @router.post("/executions/{execution}/resize", status_code=202, responses=described(*WITH_BODY, 403, 404, 409))
    async def resize(
        principal: Annotated[Principal, caller], execution: ExecutionId, body: TerminalSize, _: JsonOnly
    ) -> dict[str, str]:
        """Set the terminal size of a command that has a terminal."""
        await _instruct(service, principal, execution, Resize(body.columns, body.rows))
        return {"id": execution}
