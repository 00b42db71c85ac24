"""Schedules on servers in memory, in simulated time: each due time starts one execution, as the owner of the schedule."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from backend.application.schedule_runner import DISABLED, ScheduleRunner
from backend.application.schedules import ScheduleLimits, ScheduleService
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.model import Status, Stop, StopReason
from backend.core.identity import Principal
from backend.core.ports import Filter
from backend.core.schedules.cron import Cron, CronError
from backend.core.schedules.model import Policy, Run, Schedule, What, When
from backend.core.schedules.ports import RunPage
from backend.core.schedules.rules import CLAIM
from backend.storage.memory.schedules import MemorySchedules
from tests.application.servers import Servers, view
from tests.recipes.house import ANN, BOB, ROOT, VIC, House, build

HOUR = 3_600_000
BEGIN = int(datetime(2026, 10, 1, tzinfo=UTC).timestamp() * 1000)


@dataclass
class Time:
    """The service's schedules, and the time of all its servers."""

    servers: Servers
    now: int = BEGIN
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = MemorySchedules(self.servers.common.executions)
        self.runner = self.of(self.servers.here)
        self.service = ScheduleService(
            store=self.store,
            judge=self.servers.here.service,
            users=self.servers.common.identities,
            start=self.runner.start_ready,
            audit=self.servers.common.audit,
            bounds=ScheduleLimits(3, 60),
            now_ms=lambda: self.now,
            new_id=self.servers.common.new_id,
        )

    def of(self, house: House) -> ScheduleRunner:
        """The runner of a server."""

        def on_error(schedule: Schedule, error: CronError) -> None:
            self.broken.append(str(error))

        return ScheduleRunner(
            store=self.store,
            service=house.service,
            users=house.users,
            unavailable=house.gateway.unavailable,
            now_ms=lambda: self.now,
            random=lambda: 0,
            on_error=on_error,
        )

    async def add(
        self, command: str = "echo hi", cron: str = "0 * * * *", who: Principal = ANN, **when: object
    ) -> Schedule:
        added = await self.service.add(who, who, "a name", What(command), When(cron, **when))  # type: ignore[arg-type]
        assert isinstance(added, Schedule)
        return added

    async def at(self, milliseconds: int) -> None:
        """What this server does at a time after the begin, until all that it started has ended."""
        self.now = BEGIN + milliseconds
        await self.runner.run_once()
        await self.runner.start_ready()
        for live in list(self.servers.here.service.local.registry.live.values()):
            if live.plan.program != "cat" and live.task:
                await live.task
        await self.runner.run_once()

    async def states(self, schedule: Schedule) -> list[str]:
        """The states of its runs, the oldest first."""
        return [str(run.status) for run in (await self.runs(schedule))[::-1]]

    async def runs(self, schedule: Schedule) -> list[Run]:
        return list(await self.store.runs(RunPage(schedule.id, limit=10_000)))


@pytest.fixture
def time(servers: Servers) -> Time:
    return Time(servers)


async def executions(time: Time, schedule: Schedule) -> list[str]:
    """The commands that it started, the oldest first."""
    records = await time.servers.here.service.history.page(Filter(schedule=schedule.id, limit=10_000))
    return [record.command for record in records if record.status is not Status.DENIED][::-1]


async def test_a_due_time_starts_an_execution_of_its_owner(time: Time) -> None:
    schedule = await time.add("echo on time")
    await time.at(HOUR - 1)
    assert await time.states(schedule) == []
    await time.at(HOUR)
    (run,) = await time.runs(schedule)
    assert (run.due_ms, run.status) == (BEGIN + HOUR, "succeeded")
    record = await view(time.servers.here.service, ANN, run.execution or "")
    assert (record.principal, record.command, record.schedule_id) == ("user:ann", "echo on time", schedule.id)
    (submitted,) = [event for event in time.servers.common.audit.events if event.kind == "submitted"]
    assert submitted.fields["schedule"] == schedule.id


async def test_a_month_on_four_servers_with_a_change_of_the_clocks(time: Time) -> None:
    """Each due time starts one execution, whichever servers look at the same moment."""
    often = await time.add("echo often", "15 */6 * * *", zone="Europe/Berlin")
    nightly = await time.add("echo nightly", "30 2 * * *", zone="Europe/Berlin")
    monthly = await time.add("echo monthly", "0 0 L * *", zone="Europe/Berlin")
    runners = [time.runner, *(time.of(build(time.servers.common)) for _ in range(3))]
    end = BEGIN + 31 * 24 * HOUR
    while (due := min(each.next_due_ms or 0 for each in await time.store.of(None))) < end:
        time.now = due + due % 7
        await asyncio.gather(*(runner.run_once() for runner in runners))
        await _idle(runners)
    await time.runner.run_once()
    for schedule, count in ((often, 31 * 4), (nightly, 31), (monthly, 1)):
        ran = Counter(run.due_ms for run in await time.runs(schedule) if run.status == "succeeded")
        assert (len(ran), set(ran.values())) == (count, {1})
        assert len(await executions(time, schedule)) == count


# The minutes and hours of a schedule in each zone, and the days before its clocks are changed.
CHANGES = {
    "Europe/Berlin": ("30 2", [(2026, 10, 24), (2027, 3, 27)]),
    "America/New_York": ("30 1,2", [(2026, 10, 31), (2027, 3, 13)]),
    "Australia/Lord_Howe": ("45 1", [(2026, 10, 3), (2027, 4, 3)]),
}


@pytest.mark.parametrize("zone", CHANGES)
async def test_over_both_changes_of_the_clocks_each_night_has_its_runs(time: Time, zone: str) -> None:
    """What comes twice runs once, what is left out runs all the same, on servers whose clocks differ."""
    cron, days = CHANGES[zone]
    schedule, other = await time.add("echo", f"{cron} * * *", zone=zone), time.of(build(time.servers.common))
    for day in days:
        begin = int(datetime(*day, tzinfo=ZoneInfo(zone)).timestamp() * 1000)
        due = Cron.parse(schedule.when.cron, zone).next_after(begin) or 0
        await time.store.replace(await _found(time, schedule), replace(schedule, next_due_ms=due))
        while due < begin + 3 * 24 * HOUR:
            for now, runner in ((due + 20, time.runner), (due - 5_000, other), (due + 40, other)):
                time.now = now
                await runner.run_once()
                await _idle([runner])
            due = (await _found(time, schedule)).next_due_ms or 0
    await time.runner.run_once()
    runs = await time.runs(schedule)
    nights = Counter(datetime.fromtimestamp(run.due_ms / 1000, ZoneInfo(zone)).date() for run in runs)
    assert (len(nights), set(nights.values())) == (6, {2 if zone == "America/New_York" else 1})
    assert {run.status for run in runs} == {"succeeded"}
    assert len(await executions(time, schedule)) == len(runs)


async def _found(time: Time, schedule: Schedule) -> Schedule:
    found = await time.store.get(schedule.id)
    assert found
    return found


async def _idle(runners: list[ScheduleRunner]) -> None:
    """Wait until all that runs has ended."""
    for runner in runners:
        for live in list(runner.service.local.registry.live.values()):
            assert live.task
            await live.task


@pytest.mark.parametrize(
    ("missed", "states"),
    [
        (Policy.SKIP, ["skipped"] * 3),
        (Policy.RUN_ONCE, ["skipped", "skipped", "succeeded"]),
        (Policy.QUEUE, ["succeeded"] * 3),
    ],
)
async def test_while_all_servers_were_down(time: Time, missed: Policy, states: list[str]) -> None:
    schedule = await time.add(missed=missed, overlap=Policy.QUEUE)
    for _ in range(4):
        await time.at(3 * HOUR + HOUR // 2)
    assert await time.states(schedule) == states


@pytest.mark.parametrize(
    ("overlap", "meanwhile", "then"),
    [
        (Policy.SKIP, ["running", "skipped", "skipped"], ["cancelled", "skipped", "skipped"]),
        (Policy.RUN_ONCE, ["running", "skipped", "waiting"], ["cancelled", "skipped", "running"]),
        (Policy.QUEUE, ["running", "waiting", "waiting"], ["cancelled", "running", "waiting"]),
    ],
)
async def test_while_a_run_goes_on(time: Time, overlap: Policy, meanwhile: list[str], then: list[str]) -> None:
    schedule = await time.add("cat", overlap=overlap)
    for hour in (1, 2, 3):
        await time.at(hour * HOUR)
    assert await time.states(schedule) == meanwhile
    execution = (await time.runs(schedule))[-1].execution or ""
    await time.servers.here.service.instruct(ANN, execution, Stop(StopReason.CANCELLED, "user:ann"))
    await time.servers.ended(execution)
    await time.at(3 * HOUR + 1)
    assert await time.states(schedule) == then


async def test_what_fails_is_tried_again_later_each_time(time: Time) -> None:
    schedule = await time.add("cat", retries=2, retry_delay=60)
    for after, states in (
        (HOUR, ["failed", "waiting"]),
        (HOUR + 59_999, ["failed", "waiting"]),
        (HOUR + 60_000, ["failed", "failed", "waiting"]),
        (HOUR + 179_999, ["failed", "failed", "waiting"]),
        (HOUR + 180_000, ["failed", "failed", "failed"]),
    ):
        await time.at(after)
        for live in list(time.servers.here.service.local.registry.live.values()):
            live.instructions.stop(StopReason.OUTPUT_LIMIT)
            await time.servers.ended(live.id)
        await time.at(after)
        assert await time.states(schedule) == states
    assert [run.attempt for run in await time.runs(schedule)] == [2, 1, 0]


async def test_a_disabled_owner_runs_nothing_and_that_is_recorded(time: Time) -> None:
    schedule = await time.add()
    assert ANN.user
    users = time.servers.common.identities
    await users.set_disabled(ANN.user.id, True)
    await time.at(HOUR)
    (run,) = await time.runs(schedule)
    assert (run.status, run.reason) == ("denied", f"{DISABLED} [role.forbidden]")
    assert time.servers.status(run.execution or "") is Status.DENIED
    await users.set_disabled(ANN.user.id, False)
    await time.at(2 * HOUR)
    assert await time.states(schedule) == ["denied", "succeeded"]


async def test_a_project_that_was_closed_to_its_owner(time: Time) -> None:
    assert ANN.user
    assert BOB.user
    project = await time.servers.common.projects.add("shop", BOB.user.id)
    await time.servers.common.projects.change(project.id, members=frozenset({ANN.user.id}))
    what = What("echo hi", f"project:{project.id}")
    schedule = await time.service.add(ANN, ANN, "shop", what, When("0 * * * *"))
    assert isinstance(schedule, Schedule)
    await time.at(HOUR)
    await time.servers.common.projects.change(project.id, members=frozenset())
    await time.at(2 * HOUR)
    assert await time.states(schedule) == ["succeeded", "denied"]
    assert "project.unknown" in (await time.runs(schedule))[0].reason


async def test_a_server_that_dies_while_it_submits_starts_nothing_twice(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one takes the run over, and finds the execution that was started."""
    schedule = await time.add()
    time.now = BEGIN + HOUR
    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(MemorySchedules, "settle", _never)
        await time.runner.run_once()
    other = time.of(time.servers.there)
    await other.run_once()
    assert await time.states(schedule) == ["starting"]
    time.now += CLAIM
    await other.run_once()
    await other.run_once()
    assert await time.states(schedule) == ["succeeded"]
    assert await executions(time, schedule) == ["echo hi"]


async def _never(*_: object) -> bool:
    raise StorageError("The server has died.")


async def test_a_server_that_stops_leaves_its_runs_to_others(time: Time) -> None:
    schedule = await time.add()
    await time.servers.here.gateway.close()
    time.now = BEGIN + HOUR
    await time.runner.run_once()
    assert await time.states(schedule) == ["waiting"]
    other = time.of(time.servers.there)
    await other.run_once()
    await other.run_once()
    assert await time.states(schedule) == ["succeeded"]


async def test_a_zone_that_is_gone_pauses_its_schedule_only(time: Time) -> None:
    broken, fine = await time.add(), await time.add()
    time.store.schedules[broken.id] = replace(broken, when=replace(broken.when, zone="Atlantis/Capital"))
    await time.at(HOUR)
    found = await time.store.get(broken.id)
    assert found
    assert (found.paused, len(time.broken)) == (True, 1)
    assert await time.states(fine) == ["succeeded"]


async def test_pause_and_resume(time: Time) -> None:
    schedule = await time.add()
    for change, states in (({"paused": True}, []), ({"paused": False}, ["succeeded"])):
        await time.service.change(ANN, schedule.id, change)
        await time.at((1 if change["paused"] else 2) * HOUR)
        assert await time.states(schedule) == states


async def test_a_run_that_is_requested_acts_as_the_owner(time: Time) -> None:
    schedule = await time.add(cron="0 0 1 1 *")
    run = await time.service.run_now(ROOT, schedule.id)
    assert isinstance(run, Run)
    assert (run.manual, run.status, run.due_ms) == (True, "running", BEGIN)
    record = await view(time.servers.here.service, ANN, run.execution or "")
    assert record.principal == "user:ann"
    assert [event.actor for event in time.servers.common.audit.events if event.kind == "schedule_run"] == ["user:root"]
    assert isinstance(await time.service.run_now(ANN, schedule.id), Run)  # in the same millisecond


# What a schedule must not be, by its rule.
REFUSED: dict[str, tuple[What, When]] = {
    "schedule.cron": (What("echo"), When("0 0 30 2 *")),
    "schedule.policy": (What("echo"), When("0 * * * *", missed=Policy.QUEUE)),
    "blocked.nmap": (What("nmap 10.0.0.1"), When("0 * * * *")),
    "project.unknown": (What("echo", "project:01J5"), When("0 * * * *")),
    "target.unknown": (What("echo", "moon:base"), When("0 * * * *")),
    "limits.timeout": (What("echo", timeout=21), When("0 * * * *")),
}


@pytest.mark.parametrize("rule", REFUSED)
async def test_what_cannot_run_cannot_be_saved(time: Time, rule: str) -> None:
    what, when = REFUSED[rule]
    refused = await time.service.add(ANN, ANN, "a name", what, when)
    assert isinstance(refused, Decision)
    assert refused.rule == rule
    schedule = await time.add()
    changes = {name: getattr(part, name) for part in (what, when) for name in part.__slots__}
    changed = await time.service.change(ANN, schedule.id, changes)
    assert isinstance(changed, Decision)
    assert changed.rule == rule
    assert await time.store.get(schedule.id) == schedule


async def test_who_may_not_run_has_no_schedule(time: Time) -> None:
    refused = await time.service.add(VIC, VIC, "a name", What("echo"), When("0 * * * *"))
    assert isinstance(refused, Decision)
    assert refused.rule == "role.forbidden"


async def test_bounds(time: Time) -> None:
    for _ in range(3):
        await time.add()
    many = await time.service.add(ANN, ANN, "a name", What("echo"), When("0 * * * *"))
    often = await replace(time.service, bounds=ScheduleLimits(9, 600)).add(
        ANN, ANN, "x", What("echo"), When("*/9 * * * *")
    )
    assert isinstance(many, Decision)
    assert isinstance(often, Decision)
    assert (many.rule, often.rule) == ("schedule.too_many", "schedule.interval")
    assert "360 s" in often.reason


async def test_others_do_not_see_it_and_administrators_do_not_change_what_it_runs(time: Time) -> None:
    schedule = await time.add()
    asked: list[Callable[[Principal], object]] = [
        lambda who: time.service.get(who, schedule.id),
        lambda who: time.service.change(who, schedule.id, {"paused": True}),
        lambda who: time.service.run_now(who, schedule.id),
        lambda who: time.service.runs(who, RunPage(schedule.id)),
        lambda who: time.service.delete(who, schedule.id),
    ]
    for ask in asked:
        refused = await ask(BOB)  # type: ignore[misc]
        assert isinstance(refused, Decision)
        assert refused.rule == "schedule.unknown"
    assert (await time.service.visible_to(BOB), await time.service.visible_to(ROOT)) == ([], [schedule])
    for change in ({"command": "pwd"}, {"cron": "* * * * *"}, {"target": "local"}):
        forbidden = await time.service.change(ROOT, schedule.id, change)
        assert isinstance(forbidden, Decision)
        assert forbidden.rule == "role.forbidden"
    paused = await time.service.change(ROOT, schedule.id, {"paused": True})
    assert isinstance(paused, Schedule)
    assert paused.paused
    assert isinstance(await time.service.delete(ROOT, schedule.id), Schedule)
    kinds = [event.kind for event in time.servers.common.audit.events if event.kind.startswith("schedule_")]
    assert kinds == ["schedule_created", "schedule_changed", "schedule_deleted"]
