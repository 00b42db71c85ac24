"""Schedules: in memory and on both databases."""

import asyncio
from dataclasses import replace

import pytest

from backend.core.audit.attempts import Completion
from backend.core.execution.model import Status
from backend.core.identity import User
from backend.core.ports import Filter
from backend.core.schedules.model import Policy, ReadyRun, Run, RunStatus, Schedule, What, When
from backend.core.schedules.ports import RunPage, Schedules
from backend.core.schedules.rules import Due, claimed
from tests.storage.conftest import START, Clock
from tests.storage.contract.test_identities import BAD_IDS, Identities, added
from tests.storage.contract.worlds import Server, World
from tests.storage.writing import attempt

MINUTE = 60_000
FULL = When("*/5 1 * * *", "Europe/Berlin", Policy.QUEUE, Policy.QUEUE, 30, 3, 90)


@pytest.fixture
def schedules(world: World) -> Schedules:
    return world.schedules


@pytest.fixture
async def ann(identities: Identities) -> User:
    return await added(identities, "ann")


def hourly(owner: User, id: str = "1", **fields: object) -> Schedule:
    schedule = Schedule(id * 26, owner.id, "hourly ä", What("echo 'hi'\n"), When("0 * * * *"), START, START)
    return replace(schedule, **fields)  # type: ignore[arg-type]


async def test_a_schedule_comes_back_as_it_was_added(schedules: Schedules, ann: User) -> None:
    plain, full = hourly(ann), hourly(ann, "2", what=What("ls", "host:web-1", "sub", 60), when=FULL, next_due_ms=None)
    for each in (plain, full):
        assert await schedules.add(each, 2)
        assert await schedules.get(each.id) == each
    assert await schedules.of(ann.id) == [plain, full]
    assert await schedules.of(None) == [plain, full]
    assert await schedules.of("9" * 26) == []


async def test_an_account_has_a_bounded_number(schedules: Schedules, ann: User, identities: Identities) -> None:
    bob = await added(identities, "bob")
    assert [await schedules.add(hourly(ann, id), 2) for id in "123"] == [True, True, False]
    assert await schedules.add(hourly(bob, "4"), 2)


async def test_a_schedule_that_never_was(schedules: Schedules, ann: User) -> None:
    await schedules.add(hourly(ann), 9)
    for id in BAD_IDS:
        never = replace(hourly(ann), id=id)
        assert await schedules.get(id) is None
        assert not await schedules.delete(id)
        assert not await schedules.replace(never, never)
        assert await schedules.runs(RunPage(id)) == []


async def test_a_change_that_crosses_another_is_refused(schedules: Schedules, ann: User) -> None:
    old = hourly(ann)
    new = replace(old, name="other", when=FULL, next_due_ms=None)
    await schedules.add(old, 9)
    assert await schedules.replace(old, new)
    assert not await schedules.replace(old, replace(old, name="late"))
    assert await schedules.get(old.id) == new
    assert await schedules.replace(new, replace(new, next_due_ms=START))


async def test_what_is_due(schedules: Schedules, ann: User) -> None:
    late, due = hourly(ann, "2", next_due_ms=START - 1), hourly(ann, "1")
    for each in (due, late, hourly(ann, "3", next_due_ms=START + 1), hourly(ann, "4", next_due_ms=None)):
        await schedules.add(each, 9)
    await schedules.add_run(Run(due.id, START - 9))
    assert await schedules.due(START, 9) == [(late, 0), (due, 1)]
    assert await schedules.due(START, 1) == [(late, 0)]


async def test_of_many_servers_one_stores_a_due_time(schedules: Schedules, ann: User) -> None:
    schedule = hourly(ann)
    await schedules.add(schedule, 9)
    runs = (Run(schedule.id, START, start_ms=START), Run(schedule.id, START + 1, status=RunStatus.SKIPPED, reason="x"))
    due = Due(runs, START + MINUTE)
    assert sorted(await asyncio.gather(*(schedules.advance(schedule, due) for _ in range(8)))) == [False] * 7 + [True]
    assert await schedules.runs(RunPage(schedule.id)) == [runs[1], runs[0]]
    assert await schedules.get(schedule.id) == replace(schedule, next_due_ms=START + MINUTE)


async def test_a_clock_that_was_set_back_repeats_no_run(schedules: Schedules, ann: User) -> None:
    schedule, due = hourly(ann), Due((Run("1" * 26, START),), START + MINUTE)
    await schedules.add(schedule, 9)
    await schedules.advance(schedule, due)
    (run,) = due.runs
    await schedules.settle(run, replace(run, status=RunStatus.LOST))
    moved = replace(schedule, next_due_ms=START + MINUTE)
    assert await schedules.replace(moved, schedule)
    assert await schedules.advance(schedule, due)
    assert await schedules.runs(RunPage(schedule.id)) == [replace(run, status=RunStatus.LOST)]


async def test_of_many_servers_one_claims_a_run(schedules: Schedules, ann: User) -> None:
    schedule = hourly(ann)
    await schedules.add(schedule, 9)
    runs = [Run(schedule.id, START + number, start_ms=START) for number in range(4)]
    for run in runs:
        assert await schedules.add_run(run)
        assert not await schedules.add_run(run)
    claims = await asyncio.gather(*(schedules.claim(run, claimed(run, START)) for run in runs * 3))
    assert claims.count(True) == 1  # also of several runs: no two of a schedule are active
    states = [run.status for run in await schedules.runs(RunPage(schedule.id))]
    assert sorted(states) == ["starting", "waiting", "waiting", "waiting"]


async def test_what_may_start(schedules: Schedules, ann: User) -> None:
    schedule = hourly(ann)
    await schedules.add(schedule, 9)
    early, late = Run(schedule.id, START, start_ms=START), Run(schedule.id, START, 1, START + 1)
    later = Run(schedule.id, START + 9, start_ms=START + 9)
    for run in (late, early, later):
        await schedules.add_run(run)
    assert await schedules.ready(START + 1, 9) == [ReadyRun(schedule, early, False), ReadyRun(schedule, late, False)]
    starting = claimed(early, START)
    assert await schedules.claim(early, starting)
    assert not await schedules.claim(late, claimed(late, START))
    assert await schedules.ready(START + 1, 9) == [ReadyRun(schedule, late, True)]
    # The server that claimed it has died.
    after = starting.start_ms
    assert (await schedules.ready(after, 9))[-1] == ReadyRun(schedule, starting, False)
    assert await schedules.claim(starting, claimed(starting, after))


async def test_there_is_work_while_something_is_due_may_start_or_runs(schedules: Schedules, ann: User) -> None:
    schedule = hourly(ann)
    assert not await schedules.has_work(START)
    await schedules.add(schedule, 9)
    assert schedule.next_due_ms
    assert [await schedules.has_work(schedule.next_due_ms + more) for more in (-1, 0)] == [False, True]
    await schedules.replace(schedule, replace(schedule, next_due_ms=None))
    run = Run(schedule.id, START, start_ms=START + 5)
    await schedules.add_run(run)
    assert [await schedules.has_work(START + more) for more in (4, 5)] == [False, True]
    for status, has_work in ((RunStatus.RUNNING, True), (RunStatus.FAILED, False)):
        new = replace(run, status=status)
        assert await schedules.settle(run, new)
        assert await schedules.has_work(START + 9) is has_work
        run = new


async def test_what_waits_in_a_queue_is_not_read_while_another_runs(schedules: Schedules, ann: User) -> None:
    schedule = hourly(ann, when=FULL)
    await schedules.add(schedule, 9)
    first, second = Run(schedule.id, START), Run(schedule.id, START + 1)
    for run in (first, second):
        await schedules.add_run(run)
    starting = claimed(first, START)
    await schedules.claim(first, starting)
    assert await schedules.ready(START + 1, 9) == []
    await schedules.settle(starting, replace(starting, status=RunStatus.FAILED))
    assert await schedules.ready(START + 1, 9) == [ReadyRun(schedule, second, False)]


async def test_a_run_has_one_end_and_one_retry(schedules: Schedules, ann: User) -> None:
    schedule = hourly(ann)
    await schedules.add(schedule, 9)
    run = Run(schedule.id, START, start_ms=START)
    await schedules.add_run(run)
    end, again = replace(run, status=RunStatus.FAILED, reason="x"), Run(schedule.id, START, 1, START + 5, manual=True)
    assert sorted(await asyncio.gather(*(schedules.settle(run, end, again) for _ in range(6)))) == [False] * 5 + [True]
    assert await schedules.runs(RunPage(schedule.id)) == [again, end]


async def test_runs_whose_executions_have_ended(schedules: Schedules, ann: User, server: Server) -> None:
    schedule = hourly(ann)
    await schedules.add(schedule, 9)
    ended, goes_on = attempt("echo 1"), attempt("echo 2")
    for each in (ended, goes_on):
        await server.log.open(each)
    await server.log.close(ended, Completion(Status.TIMED_OUT, 124, 5))
    for number, execution in enumerate((ended.id, goes_on.id, "0" * 26)):
        await schedules.add_run(Run(schedule.id, START + number, status=RunStatus.RUNNING, execution=execution))
    found = [(each.run.execution, each.status) for each in await schedules.ended(9)]
    assert sorted(found) == sorted([(ended.id, RunStatus.TIMED_OUT), ("0" * 26, RunStatus.LOST)])


async def test_runs_come_in_pages_and_old_ones_go(schedules: Schedules, ann: User) -> None:
    schedule = hourly(ann)
    await schedules.add(schedule, 9)
    runs = [Run(schedule.id, START + number, status=RunStatus.LOST) for number in range(3)]
    for run in (*runs, Run(schedule.id, START - 9)):
        await schedules.add_run(run)
    assert await schedules.runs(RunPage(schedule.id, limit=2)) == runs[:0:-1]
    assert await schedules.runs(RunPage(schedule.id, START + 1, 1)) == runs[:1]
    assert await schedules.prune(START + 2) == 2
    assert len(await schedules.runs(RunPage(schedule.id))) == 2


async def test_a_deleted_schedule_is_gone_with_its_runs(schedules: Schedules, ann: User) -> None:
    schedule = hourly(ann)
    await schedules.add(schedule, 9)
    await schedules.add_run(Run(schedule.id, START))
    assert await schedules.delete(schedule.id)
    assert not await schedules.delete(schedule.id)
    assert not await schedules.add_run(Run(schedule.id, START))
    assert not await schedules.advance(schedule, Due((Run(schedule.id, START),), None))
    assert await schedules.ready(START, 9) == []


async def test_the_history_of_a_schedule(world: World, server: Server, clock: Clock) -> None:
    for schedule in ("1" * 26, None):
        await server.log.open(attempt("echo", schedule=schedule))
    (found,) = await world.history.page(Filter(schedule="1" * 26))
    assert found.schedule_id == "1" * 26
