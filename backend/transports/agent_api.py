"""The agent API: run a command and get its output; history, figures and alerts."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, assert_never

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from backend.application.activity import Activity
from backend.application.executions import ExecutionService
from backend.application.submission import CommandSpec, Existing
from backend.core import ids
from backend.core.audit.anomalies import WINDOW_MINUTES
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.execution.model import Status
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Waiting
from backend.core.execution.targets import project_ref
from backend.core.identity import Permission, Principal
from backend.core.ports import Filter
from backend.core.recording.transcript import Transcript
from backend.transports.dependencies import KNOWN_QUERY, Access, Answer, Body, JsonOnly, granted
from backend.transports.problems import WITH_BODY, Problem, described
from backend.transports.routing import new_router
from backend.transports.schemas import INPUT, KEY_HEADER, LINE, SESSION, STARTING, HistoryEntry, entry, started_by
from backend.transports.turns import in_turns


class Execute(Body):
    """A command to run to its end. `timeout` is in seconds; with `metadata_only` no output is stored.

    With a `session` it begins where the last line of that session ended, unless it has a `working_dir`.
    """

    project_id: str = Field(min_length=1, max_length=64)
    command: str = LINE
    working_dir: str = Field(default=".", max_length=1024)
    timeout: int = Field(default=60, ge=1, le=300)
    dry_run: bool = False
    metadata_only: bool = False
    stdin: str = INPUT
    session: str | None = SESSION


class Executed(Answer):
    """How a command ended. `exit_code` is null if nothing ran; the next line of its session begins in `session_dir`.

    `background` are the ids of the executions that it has started with `&`.
    """

    success: bool
    command: str
    stdout: str
    stderr: str
    exit_code: int | None
    duration_ms: int
    risk_level: str
    dry_run: bool
    command_id: str
    message: str
    status: str
    rule: str
    timed_out: bool
    truncated: bool
    protection: str | None
    session_dir: str | None = None
    background: tuple[str, ...] = ()


class StatsAnswer(Answer):
    """Figures over the commands of the caller."""

    total_commands: int
    successful_commands: int
    failed_commands: int
    high_risk_commands: int
    average_duration_ms: float
    period_days: int


class AlertEntry(Answer):
    """Something unusual."""

    type: str
    severity: str
    message: str
    count: int


class AlertsAnswer(Answer):
    """What is suspicious in the commands of a user in the last minutes."""

    user_id: str
    time_window_minutes: int
    total_commands: int
    is_suspicious: bool
    alerts: list[AlertEntry]


class Features(Answer):
    """What works now."""

    command_execution: bool
    audit_logging: bool
    rate_limiting: bool
    command_validation: bool


class AgentHealth(Answer):
    """Whether commands can run now, and if not, why."""

    status: Literal["healthy", "unavailable"]
    service: Literal["agent-api"] = "agent-api"
    features: Features
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a command requires: `refusal` is why none can run, the others are asked whether they answer."""

    refusal: Callable[[], Decision | None]
    recordings: Callable[[], bool]
    database: Callable[[], Awaitable[bool]]
    counters: Callable[[], Awaitable[bool]]

    async def health(self) -> AgentHealth:
        """What works. Nothing runs that cannot be counted, written down and recorded."""
        refusal, counted, audited = self.refusal(), await self.counters(), await self.database()
        problems = {
            refusal.reason if refusal else "": refusal is None,
            "The database does not answer.": audited,
            "The counters of the rates (Redis) do not answer.": counted,
            "Recordings cannot be written.": self.recordings(),
        }
        reason = next((problem for problem, works in problems.items() if not works), None)
        features = Features(
            command_execution=reason is None,
            audit_logging=audited,
            rate_limiting=counted,
            command_validation=True,
        )
        return AgentHealth(status="unavailable" if reason else "healthy", features=features, reason=reason)


@dataclass(frozen=True, slots=True)
class Agents:
    """What the routes of the agent API work with."""

    access: Access
    capabilities: Capabilities
    service: ExecutionService
    activity: Activity


def agent_routes(agents: Agents) -> APIRouter:
    """The routes under /api/agent."""
    router = new_router("agent", "/api/agent")
    _add_execute(router, agents)
    _add_history(router, agents)
    _add_alerts(router, agents)
    return router


def _add_execute(router: APIRouter, agents: Agents) -> None:
    access = agents.access

    @router.get("/health", dependencies=[KNOWN_QUERY], response_model_exclude_none=True)
    async def health() -> AgentHealth:
        """Whether commands can run now, and if not, why. This is 200 either way."""
        return await agents.capabilities.health()

    @router.post("/execute", responses=described(*WITH_BODY, *STARTING, 410))
    async def execute(
        principal: Annotated[Principal, Depends(access.caller)], body: Execute, _: JsonOnly, key: KEY_HEADER = None
    ) -> Executed:
        """Run a command and wait for its end. A command that fails returns 200 with `success: false`."""
        session = granted(agents.service.session(principal, body.session)) if body.session else None
        spec = CommandSpec(
            body.command,
            project_ref(body.project_id),
            cwd=body.working_dir,
            timeout=body.timeout,
            dry_run=body.dry_run,
            detached=True,
            metadata_only=body.metadata_only,
            input=body.stdin.encode("utf-8", "replace"),
            session=session,
        )
        started = await started_by(agents.service, principal, spec, key, body.model_dump_json())
        executed = await _result(agents.service, started)
        executed.session_dir = session.at(principal.name, str(spec.target)).folder if session else None
        return executed


def _add_history(router: APIRouter, agents: Agents) -> None:
    access = agents.access
    reader = Depends(access.needs(Permission.READ))

    @router.get("/history/{project_id}", responses=described(403, 404))
    async def history(
        principal: Annotated[Principal, reader], project_id: str, limit: Annotated[int, Query(ge=1, le=200)] = 50
    ) -> list[HistoryEntry]:
        """Attempts in a project, newest first."""
        found = granted(await agents.service.page(principal, Filter(limit=limit), project_ref(project_id)))
        return [entry(record) for record in found]

    @router.get("/stats", responses=described(403))
    async def stats(
        principal: Annotated[Principal, reader], days: Annotated[int, Query(ge=1, le=30)] = 7
    ) -> StatsAnswer:
        """Figures over the caller's own commands."""
        found = await agents.activity.stats(principal, days)
        return StatsAnswer(
            total_commands=found.total,
            successful_commands=found.successful,
            failed_commands=found.failed,
            high_risk_commands=found.high_risk,
            average_duration_ms=round(found.average_duration_ms, 3),
            period_days=days,
        )


def _add_alerts(router: APIRouter, agents: Agents) -> None:
    reader = Depends(agents.access.needs(Permission.READ))

    @router.get("/alerts", responses=described(403))
    async def suspicious(
        principal: Annotated[Principal, reader], user_id: Annotated[str | None, Query(pattern=ids.PATTERN)] = None
    ) -> AlertsAnswer:
        """What is suspicious in the last five minutes: of the caller, or, for administrators, of any user."""
        found = granted(await agents.activity.suspicion(principal, user_id))
        return AlertsAnswer(
            user_id=found.user_id,
            time_window_minutes=WINDOW_MINUTES,
            total_commands=found.total,
            is_suspicious=bool(found.alerts),
            alerts=[AlertEntry(**_fields(alert)) for alert in found.alerts],
        )


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


async def _result(service: ExecutionService, started: Execution | Waiting | Existing) -> Executed:
    """Wait for the end of an execution and put its output together; a repeated request gets that of the first."""
    transcript = Transcript()
    if refusal := await service.follow_started(started.id, 0, in_turns(transcript.add)):
        raise Problem.of(refusal)
    if isinstance(started, Execution) and started.task:
        await started.task
    begun, complete = transcript.last("started"), transcript.last("complete")
    problem = transcript.last("error")
    return Executed(
        success=complete.get("status") == Status.SUCCEEDED,
        command=begun.get("command", ""),
        stdout="".join(transcript.stdout),
        stderr="".join(transcript.stderr),
        exit_code=complete.get("exit_code"),
        duration_ms=complete.get("duration_ms", 0),
        risk_level=begun.get("risk", ""),
        dry_run=begun.get("dry_run", False),
        command_id=started.id,
        message=problem.get("message") or _message(begun, complete),
        status=complete.get("status", ""),
        rule=problem.get("rule") or begun.get("rule", ""),
        timed_out=complete.get("timed_out", False),
        truncated=complete.get("truncated", False),
        protection=complete.get("protection"),
        background=complete.get("background") or (),
    )


def _message(begun: dict[str, Any], complete: dict[str, Any]) -> str:
    if begun.get("dry_run"):
        return "The command would be allowed; nothing was run."
    if complete.get("truncated"):
        return "The command was stopped: it wrote more than the output limit."
    status = Status(complete.get("status", Status.LOST))
    match status:
        case Status.SUCCEEDED:
            return "The command succeeded."
        case Status.FAILED:
            return f"The command failed with exit code {complete.get('exit_code')}."
        case Status.TIMED_OUT:
            return "The command timed out and was stopped."
        case Status.CANCELLED:
            return "The command was cancelled."
        case Status.LOST | Status.QUEUED | Status.RUNNING | Status.DENIED:
            return "The end of the command was not recorded."
        case _:
            assert_never(status)
