"""The history in memory and on both databases: pages, figures, single records."""

import itertools
from random import Random
from typing import Any

import pytest

from backend.core.audit.attempts import Attempt, Completion
from backend.core.decisions import Decision, Risk
from backend.core.execution.model import Status
from backend.core.identity import Principal, Role, User
from backend.core.ids import time_of
from backend.core.ports import ExecutionHistory, Filter, Stats
from backend.core.times import HOUR_MS
from backend.storage.execution_history import MOST
from tests.ids import numbered_id
from tests.storage.contract.worlds import Server, World
from tests.storage.writing import attempt, refusal

ANN, BOB = numbered_id(1, 1), numbered_id(1, 2)

_numbers = itertools.count()


def principal(id: str) -> Principal:
    return Principal(f"user:{id}", "10.0.0.1", user=User(id, "name", Role.OPERATOR, "agent", False, 0, 0))


def one(user: str = ANN, time: int = 1000, **fields: Any) -> Attempt:
    return attempt(id=numbered_id(time, next(_numbers)), principal=principal(user), **fields)


@pytest.fixture
def history(world: World) -> ExecutionHistory:
    return world.history


async def ids(history: ExecutionHistory, wanted: Filter) -> list[str]:
    return [record.id for record in await history.page(wanted)]


async def test_pages_are_newest_first_and_follow_each_other(server: Server, history: ExecutionHistory) -> None:
    made = [one(time=number) for number in range(1, 8)]
    for each in made:
        await server.log.open(each)
    newest = [each.id for each in reversed(made)]
    assert await ids(history, Filter()) == newest
    assert await ids(history, Filter(limit=3)) == newest[:3]
    assert await ids(history, Filter(limit=3, before=newest[2])) == newest[3:6]
    assert await ids(history, Filter(before=newest[-1])) == []


async def test_pages_of_a_user_of_a_target_of_a_status(server: Server, history: ExecutionHistory) -> None:
    places = [numbered_id(2, number) for number in range(3)]
    ann, bob, denied = one(project=places[0]), one(BOB, project=places[1]), one(decision=refusal())
    machine = one(BOB, target="machine:web-01")
    visitor = attempt()
    for each in (ann, bob, visitor, machine):
        await server.log.open(each)
    await server.log.refuse(denied)
    assert set(await ids(history, Filter(user_id=ANN))) == {ann.id, denied.id}
    assert await ids(history, Filter(user_id="")) == []
    assert await ids(history, Filter(target=f"project:{places[1]}")) == [bob.id]
    assert await ids(history, Filter(target=f"project:{places[2]}")) == []
    assert await ids(history, Filter(target="machine:web-01")) == [machine.id]
    assert await ids(history, Filter(user_id=ANN, target="machine:web-01")) == []
    assert await ids(history, Filter(status=Status.DENIED)) == [denied.id]
    assert await ids(history, Filter(user_id=ANN, status=Status.RUNNING)) == [ann.id]


async def test_a_record_is_what_was_written(server: Server, history: ExecutionHistory) -> None:
    made = one(
        target="machine:web-01",
        command="rm x",
        argvs=(("ls",), ("rm", "x")),
        dry_run=True,
        metadata_only=True,
        decision=Decision(True, "a", Risk.HIGH, ""),
    )
    await server.log.open(made)
    found = await history.get(made.id)
    assert found
    assert (found.deletes, found.dry_run, found.metadata_only, found.risk) == (True, True, True, Risk.HIGH)
    assert (found.target, found.project_id) == ("machine:web-01", None)
    assert (found.user_id, found.exit_code, found.duration_ms, found.success) == (ANN, None, None, False)
    assert await history.get("") is None
    assert await history.get(numbered_id(9, 9)) is None


async def test_figures(server: Server, history: ExecutionHistory) -> None:
    assert await history.stats(ANN, 0) == Stats(0, 0, 0, 0, 0.0)
    risky = Decision(True, "allow.rm", Risk.HIGH, "")
    endings = {
        Status.SUCCEEDED: one(time=1000, decision=risky),
        Status.FAILED: one(time=1001),
        Status.LOST: one(time=1002),
    }
    for status, each in endings.items():
        await server.log.open(each)
        await server.log.close(each, Completion(status, 0, 100 if status is Status.SUCCEEDED else 200))
    await server.log.open(one(time=1003))
    await server.log.refuse(one(time=1004, decision=refusal()))
    await server.log.open(one(BOB))
    await server.log.open(one(time=999))
    stats = await history.stats(ANN, 1000)
    assert (stats.total, stats.successful, stats.failed, stats.high_risk) == (5, 1, 3, 2)
    assert stats.average_duration_ms == pytest.approx(500 / 3)


@pytest.mark.parametrize("rule", ["syntax.quote", "limits.rate", "project.unknown", "target.unknown"])
async def test_what_was_not_meant_to_run_counts_in_no_figure(
    server: Server, history: ExecutionHistory, rule: str
) -> None:
    dry = one(time=1000, dry_run=True)
    await server.log.open(dry)
    await server.log.close(dry, Completion(Status.SUCCEEDED, 0, 100))
    await server.log.refuse(one(time=1001, decision=Decision.deny(rule, "")))
    await server.log.refuse(one(time=1002, decision=Decision.deny("program.unlisted", "")))
    assert await history.stats(ANN, 1000) == Stats(1, 0, 1, 1, 0.0)
    assert [record.rule for record in await history.since(ANN, 1000)] == ["program.unlisted"]


HOURS = 40


async def fill(server: Server, random: Random) -> list[tuple[Attempt, Completion | None]]:
    """What two accounts did in the course of HOURS, most of it in a few of them."""
    made: list[tuple[Attempt, Completion | None]] = []
    for _ in range(60):
        time = random.choice((0, 1, 7, 30, HOURS - 1)) * HOUR_MS + random.randrange(HOUR_MS)
        each = one(random.choice((ANN, BOB)), time, dry_run=random.random() < 0.1)
        status = random.choice((Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT))
        end = Completion(status, 1, random.randrange(10**6))
        await server.log.open(each)
        await server.log.close(each, end)
        made.append((each, end))
    return made


def figures(made: list[tuple[Attempt, Completion | None]], user: str, since: int) -> Stats:
    ends = [
        end
        for each, end in made
        if each.principal.user and each.principal.user.id == user and time_of(each.id) >= since and not each.dry_run
    ]
    succeeded = sum(end is not None and end.status is Status.SUCCEEDED for end in ends)
    took = [end.duration_ms for end in ends if end]
    unfinished = ends.count(None)
    return Stats(len(ends), succeeded, len(ends) - succeeded - unfinished, 0, sum(took) / len(took) if took else 0.0)


@pytest.mark.parametrize("seed", range(3))
async def test_figures_are_the_same_when_hours_are_summed_up(
    world: World, server: Server, history: ExecutionHistory, seed: int
) -> None:
    random = Random(seed)
    made = await fill(server, random)
    for now in (0, 3, 4, 12, 12, HOURS + 5):
        await world.summarise(now * HOUR_MS + random.randrange(HOUR_MS))
        for since in (0, 1, HOUR_MS, 7 * HOUR_MS + random.randrange(HOUR_MS), 30 * HOUR_MS, HOURS * HOUR_MS):
            for user in (ANN, BOB):
                found, expected = await history.stats(user, since), figures(made, user, since)
                assert (found.total, found.successful, found.failed) == (
                    expected.total,
                    expected.successful,
                    expected.failed,
                ), (now, since)
                assert found.average_duration_ms == pytest.approx(expected.average_duration_ms)


async def test_an_hour_with_something_unfinished_is_summed_up_later(
    world: World, server: Server, history: ExecutionHistory
) -> None:
    early, late = one(time=HOUR_MS), one(time=3 * HOUR_MS)
    await server.log.open(early)
    await server.log.open(late)
    await server.log.close(late, Completion(Status.SUCCEEDED, 0, 5))
    await world.summarise(20 * HOUR_MS)
    assert await history.stats(ANN, 0) == Stats(2, 1, 0, 0, 5.0)
    await server.log.close(early, Completion(Status.LOST, None, 0))
    await world.summarise(20 * HOUR_MS)
    assert await history.stats(ANN, 0) == Stats(2, 1, 1, 0, 2.5)


async def test_what_came_since_a_time_is_bounded(server: Server, history: ExecutionHistory) -> None:
    made = [one(time=1000 + number) for number in range(5)]
    for each in made:
        await server.log.open(each)
    assert [record.id for record in await history.since(ANN, 1003)] == [made[4].id, made[3].id]
    assert MOST == 1000
