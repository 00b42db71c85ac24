"""Schedules: commands that run at the times of a cron expression."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi import Path as PathParameter
from pydantic import Field

from backend.application.schedules import ScheduleService
from backend.core import ids
from backend.core.dataclasses import dataclass
from backend.core.identity import Permission, Principal
from backend.core.schedules.cron import LONGEST_CRON
from backend.core.schedules.model import (
    LONGEST_RETRY_DELAY,
    LONGEST_SCHEDULE_NAME,
    MOST_JITTER,
    MOST_RETRIES,
    Policy,
    Run,
    Schedule,
    What,
    When,
)
from backend.core.schedules.ports import RunPage
from backend.core.schedules.rules import upcoming
from backend.core.times import iso
from backend.transports.dependencies import Access, Answer, JsonOnly, Names, granted, with_owners
from backend.transports.problems import WITH_BODY, described
from backend.transports.routing import new_router
from backend.transports.schemas import LINE, Targeted

ScheduleId = Annotated[str, PathParameter(pattern=ids.PATTERN)]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_SCHEDULE_NAME)]
Folder = Annotated[str, Field(max_length=1024)]
Timeout = Annotated[int, Field(ge=1, le=86400)]
Expression = Annotated[str, Field(min_length=1, max_length=LONGEST_CRON)]
Zone = Annotated[str, Field(min_length=1, max_length=100)]
Jitter = Annotated[int, Field(ge=0, le=MOST_JITTER)]
Retries = Annotated[int, Field(ge=0, le=MOST_RETRIES)]
RetryDelay = Annotated[int, Field(ge=1, le=LONGEST_RETRY_DELAY)]
FIELDS = frozenset({"name", "paused", *What.__slots__, *When.__slots__})


class NewSchedule(Targeted):
    """A schedule to add. It runs in a project, on another `target`, or in the caller's own workspace."""

    name: Name
    command: str = LINE
    cron: Expression
    zone: Zone = "UTC"
    working_dir: Folder = "."
    timeout: Timeout | None = None
    missed: Policy = Policy.RUN_ONCE
    overlap: Policy = Policy.SKIP
    jitter: Jitter = 0
    retries: Retries = 0
    retry_delay: RetryDelay = 60
    paused: bool = False


class ScheduleChange(Targeted):
    """What to change; fields that are omitted remain as they are."""

    name: Name | None = None
    command: Annotated[str, Field(min_length=1)] | None = None
    cron: Expression | None = None
    zone: Zone | None = None
    working_dir: Folder | None = None
    timeout: Timeout | None = None
    missed: Policy | None = None
    overlap: Policy | None = None
    jitter: Jitter | None = None
    retries: Retries | None = None
    retry_delay: RetryDelay | None = None
    paused: bool | None = None

    @property
    def changes(self) -> Mapping[str, Any]:
        """The fields that were sent."""
        given = self.model_dump(exclude_none=True)
        place = {"target": str(self.ref)} if given.keys() & {"project_id", "target"} else {}
        return {name: value for name, value in given.items() if name in FIELDS} | place


class ScheduleEntry(Answer):
    """A schedule as the API shows it. `owner` is the name of its account, `next` its next due times in UTC."""

    id: str
    name: str
    owner: str
    command: str
    target: str
    working_dir: str
    timeout: int | None
    cron: str
    zone: str
    missed: Policy
    overlap: Policy
    jitter: int
    retries: int
    retry_delay: int
    paused: bool
    created_at: str
    next: list[str]


class RunEntry(Answer):
    """A run as the API shows it. `execution` is what it started; `reason` says why it started nothing."""

    due_at: str
    attempt: int
    status: str
    manual: bool
    execution: str | None
    reason: str


class RunsPage(Answer):
    """Runs, newest first. `next_before` asks for the next page; null on the last."""

    runs: list[RunEntry]
    next_before: int | None


@dataclass(frozen=True, slots=True)
class ScheduleRoutes:
    """What the routes need."""

    access: Access
    service: ScheduleService
    users: Names
    now_ms: Callable[[], int]

    async def entries(self, schedules: Sequence[Schedule]) -> list[ScheduleEntry]:
        """Schedules as the API shows them."""
        return [_entry(*each, self.now_ms()) for each in await with_owners(self.users, schedules)]


def schedule_routes(routes: ScheduleRoutes) -> APIRouter:
    """The routes under /api/schedules."""
    router = new_router("schedules", "/api/schedules")
    _add_lists(router, routes)
    _add_changes(router, routes)
    _add_runs(router, routes)
    return router


def _add_lists(router: APIRouter, routes: ScheduleRoutes) -> None:
    reader = Depends(routes.access.needs(Permission.READ))

    @router.get("", responses=described(403))
    async def list_schedules(principal: Annotated[Principal, reader]) -> list[ScheduleEntry]:
        """The schedules of the caller; for administrators all."""
        return await routes.entries(await routes.service.visible_to(principal))

    @router.get("/{schedule}", responses=described(403, 404))
    async def one(principal: Annotated[Principal, reader], schedule: ScheduleId) -> ScheduleEntry:
        """One schedule, with its next five due times."""
        return (await routes.entries([granted(await routes.service.get(principal, schedule))]))[0]


def _add_changes(router: APIRouter, routes: ScheduleRoutes) -> None:
    worker = Depends(routes.access.needs(Permission.EXECUTE))

    @router.post("", status_code=201, responses=described(*WITH_BODY, 403, 404, 409))
    async def add(principal: Annotated[Principal, worker], body: NewSchedule, _: JsonOnly) -> ScheduleEntry:
        """Add a schedule; the caller owns it, and it acts as the caller."""
        values = body.model_dump() | {"target": str(body.ref)}
        what = What(**{name: values[name] for name in What.__slots__})
        when = When(**{name: values[name] for name in When.__slots__})
        added = await routes.service.add(principal, principal, body.name, what, when, paused=body.paused)
        return (await routes.entries([granted(added)]))[0]

    @router.patch("/{schedule}", responses=described(*WITH_BODY, 403, 404))
    async def change(
        principal: Annotated[Principal, worker], schedule: ScheduleId, body: ScheduleChange, _: JsonOnly
    ) -> ScheduleEntry:
        """Change, pause or resume a schedule. Administrators can pause and resume those of others."""
        changed = granted(await routes.service.change(principal, schedule, body.changes))
        return (await routes.entries([changed]))[0]

    @router.delete("/{schedule}", status_code=204, responses=described(403, 404))
    async def delete(principal: Annotated[Principal, worker], schedule: ScheduleId) -> None:
        """Delete a schedule. Its executions remain in the history."""
        granted(await routes.service.delete(principal, schedule))


def _add_runs(router: APIRouter, routes: ScheduleRoutes) -> None:
    reader = Depends(routes.access.needs(Permission.READ))
    worker = Depends(routes.access.needs(Permission.EXECUTE))

    @router.post("/{schedule}/run", status_code=202, responses=described(403, 404))
    async def run(principal: Annotated[Principal, worker], schedule: ScheduleId) -> RunEntry:
        """Run a schedule now, as its owner, in addition to its due times."""
        return _run(granted(await routes.service.run_now(principal, schedule)))

    @router.get("/{schedule}/runs", responses=described(403, 404))
    async def runs(
        principal: Annotated[Principal, reader],
        schedule: ScheduleId,
        before: Annotated[int | None, Query(ge=0, le=1 << 53)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> RunsPage:
        """The runs of a schedule, newest first."""
        found = granted(await routes.service.runs(principal, RunPage(schedule, before, limit + 1)))
        more = found[limit - 1].due_ms if len(found) > limit else None
        return RunsPage(runs=[_run(each) for each in found[:limit]], next_before=more)


def _entry(schedule: Schedule, owner: str, now_ms: int) -> ScheduleEntry:
    fields = {name: getattr(schedule.what, name) for name in What.__slots__}
    fields |= {name: getattr(schedule.when, name) for name in When.__slots__}
    return ScheduleEntry(
        id=schedule.id,
        name=schedule.name,
        owner=owner,
        paused=schedule.paused,
        created_at=iso(schedule.created_ms),
        next=[iso(each) for each in upcoming(schedule, now_ms)],
        **fields,
    )


def _run(run: Run) -> RunEntry:
    return RunEntry(
        due_at=iso(run.due_ms),
        attempt=run.attempt,
        status=run.status,
        manual=run.manual,
        execution=run.execution,
        reason=run.reason,
    )
