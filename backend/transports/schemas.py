"""What several routes share: where a command runs, an execution as the API shows it, and how one is started."""

import hashlib
from typing import Annotated, Self

from fastapi import Header
from pydantic import Field, model_validator

from backend.application.executions import ExecutionService
from backend.application.submission import CommandSpec, Existing, IdempotencyKey
from backend.core.audit.attempts import Record
from backend.core.execution.model import NOTHING_USED
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused, Waiting
from backend.core.execution.sessions import NAME_PATTERN
from backend.core.execution.targets import PROJECT_PATTERN, TARGET_PATTERN, TargetRef, target_ref
from backend.core.identity import Principal
from backend.core.times import iso
from backend.transports.dependencies import Answer, Body
from backend.transports.problems import Problem

LONGEST_OVERLAP = 30 * 86400  # seconds
STARTING = (400, 403, 404, 409)  # the errors of starting a command, in addition to those of every route

KEY_HEADER = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=255,
        min_length=1,
        pattern="^[!-~]+$",
        description="A repeated request with the same key and body gets the same execution",
    ),
]


# Its length is limited by the policy, so that a line which is too long is recorded as any other that is refused.
LINE: str = Field(min_length=1, description="At most 32000 characters, unless the policy of the project says otherwise")


INPUT: str = Field(default="", max_length=65536, description="All that the standard input of the command holds")
SESSION: str | None = Field(
    default=None, pattern=NAME_PATTERN, description="Begin where the last line with this name of yours has ended"
)


class Targeted(Body):
    """Where a command runs: in a project, in another `target`, or, without both, in the caller's own workspace."""

    project_id: str | None = Field(default=None, pattern=PROJECT_PATTERN)
    target: str | None = Field(default=None, pattern=TARGET_PATTERN)

    @model_validator(mode="after")
    def _check_ref(self) -> Self:
        target_ref(self.project_id, self.target)
        return self

    @property
    def ref(self) -> TargetRef:
        """The target that is named."""
        return target_ref(self.project_id, self.target)


class RotateBody(Body):
    """How many seconds the old secret is valid in addition to the new one."""

    overlap: int = Field(default=86400, ge=0, le=LONGEST_OVERLAP)


class Started(Answer):
    """Where to find the execution that was started."""

    id: str
    status: str
    url: str


class HistoryEntry(Answer):
    """One attempt. `created_at` is UTC."""

    id: str
    user_id: str | None
    target: str
    project_id: str | None
    command: str
    working_dir: str
    success: bool
    exit_code: int | None
    duration_ms: int | None
    risk_level: str
    dry_run: bool
    created_at: str
    status: str
    rule: str
    protection: str | None
    cpu_ms: int | None
    peak_memory_bytes: int | None
    read_bytes: int | None
    written_bytes: int | None
    signal: str | None
    schedule_id: str | None


def entry(record: Record) -> HistoryEntry:
    """A record as the API shows it."""
    return HistoryEntry(
        id=record.id,
        user_id=record.user_id,
        target=record.target,
        project_id=record.project_id,
        command=record.command,
        working_dir=record.working_dir,
        success=record.success,
        exit_code=record.exit_code,
        signal=record.signal,
        schedule_id=record.schedule_id,
        duration_ms=record.duration_ms,
        risk_level=record.risk,
        dry_run=record.dry_run,
        created_at=iso(record.created_ms),
        status=record.status,
        rule=record.rule,
        **{name: getattr(record, name) for name in NOTHING_USED.figures if name != "protection"},
        protection=record.protection or None,
    )


async def started_by(
    service: ExecutionService, who: Principal, spec: CommandSpec, key: str | None, body: str
) -> Execution | Waiting | Existing:
    """Start a command, once for each idempotency key. Raises Problem."""
    digest = hashlib.sha256(body.encode("utf-8", "surrogatepass")).digest()
    answer = await service.submit(who, spec, IdempotencyKey(key, digest) if key else None)
    if isinstance(answer, Refused):
        raise refusal(answer)
    return answer


def refusal(refused: Refused) -> Problem:
    """Why a command was not started, with the id under which the history has it."""
    problem = Problem.of(refused.decision, recorded=bool(refused.execution))
    if refused.execution:
        problem.extra = {**problem.extra, "command_id": refused.execution}
    return problem
