"""Ownership by lease: who runs an execution, who may end it, and who takes over what waits."""

import asyncio
from dataclasses import replace

import pytest

from backend.core.audit.attempts import Attempt, Completion
from backend.core.execution.model import Status
from backend.core.execution.ownership import LEASE_MS
from backend.core.ports import QueuedExecution
from backend.core.recording.digest import RecordingDigest
from tests.ids import numbered_id
from tests.storage.conftest import Clock
from tests.storage.contract.test_execution_log import LOST, kinds, status
from tests.storage.contract.worlds import Server, World
from tests.storage.writing import ENDED, attempt

CANCELLED = Completion(Status.CANCELLED, None, 0, stopped_by="user:bob")
HERE = frozenset({"local"})


@pytest.fixture
async def other(world: World) -> Server:
    return await world.server("B" * 26, "F" * 26)


def in_order(count: int) -> list[Attempt]:
    """Attempts of different times."""
    return [attempt(id=numbered_id(number, number)) for number in range(1, count + 1)]


async def claim(server: Server, limit: int) -> list[QueuedExecution]:
    """Claim what waits here; those that no other server claimed first."""
    return [each for each in await server.ownership.queued(HERE, limit) if await server.ownership.claim(each.record.id)]


async def expired(server: Server, before_ms: int) -> list[str]:
    return [record.id for record in await server.ownership.expired(before_ms)]


async def test_a_lease_runs_out_unless_it_is_extended(
    world: World, server: Server, other: Server, clock: Clock
) -> None:
    kept, left = in_order(2)
    await server.log.open(kept)
    await other.log.open(left)
    clock.now += LEASE_MS - 1
    assert await expired(server, clock.now) == []
    assert await server.ownership.renew() == frozenset()
    clock.now += 1
    for each in (server, other):
        assert await expired(each, clock.now) == [left.id]
    assert await expired(server, clock.now - 1) == []
    clock.now += LEASE_MS - 1
    assert await expired(server, clock.now) == [kept.id, left.id]


async def test_what_has_ended_or_was_refused_has_no_lease(world: World, server: Server, clock: Clock) -> None:
    one = attempt()
    await server.log.open(one)
    await server.log.close(one, ENDED)
    clock.now += 10 * LEASE_MS
    assert await expired(server, clock.now) == []
    assert await server.ownership.renew() == frozenset()


async def test_an_expired_execution_is_closed_once_by_servers_that_race(
    world: World, server: Server, clock: Clock
) -> None:
    others = [await world.server(letter * 26) for letter in "CDE"]
    made = [attempt() for _ in range(4)]
    for each in made:
        await server.log.open(each)
    clock.now += LEASE_MS

    async def close_all(each: Server) -> list[bool]:
        found = await each.ownership.expired(clock.now)
        return [await each.ownership.close_expired(record, clock.now, LOST) for record in found]

    results = await asyncio.gather(*map(close_all, others))
    assert sum(sum(each) for each in results) == len(made)
    for each in made:
        assert await kinds(world, each.id) == ["submitted", "started", "lost"]
        assert not await server.log.close(each, ENDED)


async def test_the_recording_of_an_expired_one_was_read_by_the_server_that_closes_it(
    world: World, server: Server, other: Server, clock: Clock
) -> None:
    await server.log.open(attempt())
    clock.now += LEASE_MS
    [found] = await other.ownership.expired(clock.now)
    end = replace(LOST, recording=RecordingDigest(7, "ab"))
    assert await other.ownership.close_expired(found, clock.now, end)
    *_, lost = await world.events()
    assert lost["recording"]["folder"] == "F" * 26


async def test_a_server_that_comes_back_in_time_keeps_its_execution(
    world: World, server: Server, other: Server, clock: Clock
) -> None:
    one = attempt()
    await server.log.open(one)
    clock.now += LEASE_MS
    [found] = await other.ownership.expired(clock.now)
    assert await server.ownership.renew() == frozenset()
    assert not await other.ownership.close_expired(found, clock.now, LOST)
    assert await status(world, one.id) is Status.RUNNING
    assert await kinds(world, one.id) == ["submitted", "started"]


async def test_a_server_learns_what_it_has_lost(world: World, server: Server, other: Server, clock: Clock) -> None:
    lost, kept = attempt(), attempt()
    await server.log.open(lost)
    clock.now += 1
    await server.log.open(kept)
    clock.now += LEASE_MS - 1
    [found] = await other.ownership.expired(clock.now)
    assert await other.ownership.close_expired(found, clock.now, LOST)
    assert await server.ownership.renew() == {lost.id}
    assert await server.ownership.renew() == frozenset(), "it is reported once"
    assert not await server.log.close(lost, ENDED)
    assert await server.log.close(kept, ENDED)


async def test_the_leases_of_a_dead_owner_end_at_once(
    world: World, server: Server, other: Server, clock: Clock
) -> None:
    theirs, ours, ended = attempt(), attempt(), attempt()
    await other.log.open(theirs)
    await other.log.open(ended)
    await other.log.close(ended, ENDED)
    await server.log.open(ours)
    await server.ownership.release_dead({other.ownership.owner, "nobody"})
    assert await expired(server, 0) == [theirs.id]
    await server.ownership.release_dead(set())
    assert await expired(server, 0) == [theirs.id]


async def test_what_waits_is_claimed_in_order_with_its_job(
    world: World, server: Server, other: Server, clock: Clock
) -> None:
    made = in_order(3)
    for each in made:
        await server.ownership.enqueue(each, f'{{"execution":"{each.id}"}}')
    found = await world.history.get(made[0].id)
    assert found
    assert (found.status, found.owner) == (Status.QUEUED, None)
    assert await kinds(world, made[0].id) == ["submitted"]
    assert await expired(server, clock.now + 10 * LEASE_MS) == [], "it has no lease"
    waiting = await other.ownership.queued(HERE, 2)
    assert waiting[0].record == found
    claimed = await claim(other, 2)
    assert [each.record.id for each in claimed] == [each.id for each in made[:2]]
    assert claimed == waiting
    assert claimed[1].job == f'{{"execution":"{made[1].id}"}}'
    running = replace(found, status=Status.RUNNING, owner=other.ownership.owner, folder="F" * 26)
    assert await world.history.get(made[0].id) == running
    assert await kinds(world, made[0].id) == ["submitted", "started"]
    clock.now += LEASE_MS - 1
    assert await other.ownership.renew() == frozenset()
    clock.now += 1
    assert await expired(server, clock.now) == []
    assert await other.log.close(made[0], ENDED)
    assert [each.record.id for each in await claim(server, 9)] == [made[2].id]
    assert await claim(server, 9) == []


async def test_what_waits_is_found_by_its_targets(world: World, server: Server, other: Server) -> None:
    shop, web = (
        replace(each, target=f"machine:{name}") for each, name in zip(in_order(2), ("shop", "web"), strict=True)
    )
    for each in (shop, web):
        await server.ownership.enqueue(each, "job")
    assert await other.ownership.queued(set(), 9) == []
    assert await other.ownership.queued({"machine:other", "machine"}, 9) == []
    [found] = await other.ownership.queued({"machine:web", "machine:other"}, 9)
    assert (found.record.id, found.record.target) == (web.id, "machine:web")
    both = await other.ownership.queued({"machine:web", "machine:shop"}, 9)
    assert [each.record.id for each in both] == [shop.id, web.id]
    assert await other.ownership.queued({"machine:web"}, 9) == [found]
    assert await other.ownership.waiting(web.id) == found
    assert await other.ownership.waiting("unknown") is None
    assert await other.ownership.claim(web.id)
    assert await other.ownership.waiting(web.id) is None
    assert await other.ownership.queued({"machine:web"}, 9) == []
    assert not await server.ownership.claim(web.id)
    assert not await server.ownership.claim("unknown")


async def test_why_something_that_waited_was_not_run_is_in_the_audit(world: World, server: Server) -> None:
    one = attempt()
    await server.ownership.enqueue(one, "job")
    assert await server.ownership.cancel_queued(one.id, Completion(Status.DENIED, None, 0, reason="It is closed."))
    [end] = [each for each in await world.events() if each["kind"] == "finished"]
    assert (end["status"], end["reason"]) == ("denied", "It is closed.")


async def test_servers_that_race_claim_each_execution_once(world: World, server: Server) -> None:
    others = [server, *[await world.server(letter * 26) for letter in "CDE"]]
    made = [attempt() for _ in range(30)]
    await asyncio.gather(*(server.ownership.enqueue(each, "job") for each in made))
    claims = await asyncio.gather(*(claim(each, 30) for each in others))
    claimed = [each.record.id for claims in claims for each in claims]
    assert sorted(claimed) == sorted(each.id for each in made)
    for each in made:
        assert await kinds(world, each.id) == ["submitted", "started"]


async def test_what_waits_can_be_cancelled_and_what_runs_not(world: World, server: Server, other: Server) -> None:
    waits, runs = attempt(), attempt()
    await server.ownership.enqueue(waits, "job")
    assert await other.ownership.cancel_queued(waits.id, CANCELLED)
    assert not await server.ownership.cancel_queued(waits.id, CANCELLED)
    assert await status(world, waits.id) is Status.CANCELLED
    assert await kinds(world, waits.id) == ["submitted", "cancelled", "finished"]
    assert await claim(server, 1) == []
    assert not await server.ownership.claim(waits.id)
    await server.log.open(runs)
    assert not await server.ownership.cancel_queued(runs.id, CANCELLED)
    assert not await server.ownership.cancel_queued("unknown", CANCELLED)
    assert await status(world, runs.id) is Status.RUNNING


async def test_of_a_claim_and_a_cancellation_at_once_one_succeeds(world: World, server: Server, other: Server) -> None:
    for _ in range(10):
        one = attempt()
        await server.ownership.enqueue(one, "job")
        claimed, cancelled = await asyncio.gather(
            server.ownership.claim(one.id), other.ownership.cancel_queued(one.id, CANCELLED)
        )
        assert claimed + cancelled == 1
        assert await status(world, one.id) is (Status.CANCELLED if cancelled else Status.RUNNING)


async def test_what_waits_is_not_finished_and_not_running(world: World, server: Server) -> None:
    one = attempt()
    await server.ownership.enqueue(one, "job")
    assert not await server.log.close(one, ENDED)
    assert await status(world, one.id) is Status.QUEUED


async def test_what_outlives_its_server_waits_for_the_one_that_takes_it_up(
    world: World, server: Server, other: Server, clock: Clock
) -> None:
    died, left = in_order(2)
    for each in (died, left):
        await server.log.open(each)
    assert not await other.ownership.hand_over(left.id), "it is not its own"
    assert await server.ownership.hand_over(left.id)
    record = await world.history.get(died.id)
    assert record
    assert not await other.ownership.requeue(record, clock.now), "its lease has not run out"
    clock.now += LEASE_MS
    [record] = await other.ownership.expired(clock.now)
    assert record.id == died.id
    assert await other.ownership.requeue(record, clock.now)
    assert not await other.ownership.requeue(record, clock.now)
    assert await server.ownership.renew() == {died.id}
    claimed = await claim(other, 9)
    assert [(each.record.id, each.job) for each in claimed] == [(died.id, ""), (left.id, "")]
    assert await kinds(world, died.id) == ["submitted", "started", "started"]
    assert not await server.log.close(left, LOST) or await status(world, left.id) is Status.LOST
