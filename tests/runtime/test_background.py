"""Heartbeats and what runs next to them, over stores in memory."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from backend.core.audit.attempts import Completion
from backend.core.errors import StorageError
from backend.core.execution.model import Status
from backend.core.execution.ownership import LEASE_MS, Contact
from backend.runtime import background, server_background
from backend.runtime.background import heartbeat_often, retry_often, supervised
from backend.runtime.server_background import forget_runs_often, run_queue_often
from tests.storage.conftest import Clock, clock, new_id
from tests.storage.contract.worlds import MemoryWorld, Server
from tests.storage.writing import ENDED, attempt

__all__ = ["clock", "new_id"]


@pytest.fixture
def world(clock: Clock, new_id: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> MemoryWorld:
    monkeypatch.setattr(background, "HEARTBEAT", 0)
    monkeypatch.setattr(background, "RESTART_AFTER", 0)
    return MemoryWorld(clock, new_id)


def stores(server: Server, contact: Contact) -> Any:
    """What a heartbeat needs of the stores."""
    return SimpleNamespace(ownership=server.ownership, recovery=SimpleNamespace(contact=contact))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def test_what_runs_is_kept_and_what_was_lost_is_stopped(world: MemoryWorld, clock: Clock) -> None:
    here, other = await world.server("A" * 26), await world.server("B" * 26)
    kept, lost = attempt(), attempt()
    await here.log.open(kept)
    await here.log.open(lost)
    assert await other.log.close(lost, Completion(Status.LOST, None, 0))
    clock.now += LEASE_MS - 1
    stopped: set[str] = set()
    beating = asyncio.create_task(heartbeat_often(stores(here, Contact()), stopped.update))
    await until(lambda: stopped == {lost.id})
    beating.cancel()
    clock.now += 1
    assert await other.ownership.expired(clock.now) == []


async def test_an_outage_is_logged_once_and_what_could_not_be_written_is_written_after_it(
    world: MemoryWorld, clock: Clock
) -> None:
    here, contact = await world.server("A" * 26), Contact()
    one, two = attempt(), attempt()
    await here.log.open(one)
    await here.log.open(two)
    with structlog.testing.capture_logs() as logs:
        async with world.outage():
            closing = asyncio.create_task(here.log.close(one, ENDED))
            await asyncio.wait({closing})
            assert closing.exception()
            contact.reached(clock.now - LEASE_MS)
            contact.reached(clock.now)
            beating = asyncio.create_task(heartbeat_often(stores(here, contact), lambda _: None))
            await until(lambda: bool(logs))
            unwritten: Any = SimpleNamespace(executions=here.log)
            retrying = asyncio.create_task(retry_often(unwritten))
            for _ in range(20):  # more heartbeats that fail
                await asyncio.sleep(0)
            assert contact.judged_until(clock.now) == 0
        await until(lambda: len(world.audit.events) == 5)
        beating.cancel()
        retrying.cancel()
    assert [(each["log_level"], each["event"]) for each in logs] == [
        ("error", "leases not extended"),
        ("info", "over: leases not extended"),
    ]
    found = await world.history.get(one.id)
    assert found
    assert found.status is Status.SUCCEEDED


async def test_a_job_that_crashes_is_logged_and_goes_on(world: MemoryWorld, clock: Clock) -> None:
    here, other = await world.server("A" * 26), await world.server("B" * 26)
    kept, lost = attempt(), attempt()
    await here.log.open(kept)
    await here.log.open(lost)
    assert await other.log.close(lost, Completion(Status.LOST, None, 0))

    def stop_lost(ids: frozenset[str]) -> None:
        if ids:
            raise KeyError(*ids)

    with structlog.testing.capture_logs() as logs:
        beating = asyncio.create_task(
            supervised("heartbeat", lambda: heartbeat_often(stores(here, Contact()), stop_lost))
        )
        await until(lambda: len(logs) > 0)
        clock.now += LEASE_MS - 1
        for _ in range(20):
            await asyncio.sleep(0)
        assert not beating.done()
        beating.cancel()
    assert {(each["event"], each["job"], repr(each["exc_info"])) for each in logs} == {
        ("background job crashed", "heartbeat", repr(KeyError(lost.id)))
    }
    clock.now += 1
    assert await other.ownership.expired(clock.now) == [], "its lease was extended after the crash"


async def test_a_job_that_has_nothing_to_do_ends() -> None:
    async def work() -> None:
        return

    await supervised("work", work)


async def test_a_queue_that_cannot_be_read_is_logged_once_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_background, "RUN_QUEUE_EVERY", 0)
    failures, asked = 3, 0

    class Runner:
        async def run_once(self) -> int:
            nonlocal asked
            asked += 1
            if asked <= failures:
                raise StorageError("The database cannot be reached.")
            return 0

    runner: Any = Runner()
    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(run_queue_often(runner))
        await until(lambda: asked > failures + 1)
        running.cancel()
    assert [(each["log_level"], each["event"]) for each in logs] == [
        ("error", "waiting executions not started"),
        ("info", "over: waiting executions not started"),
    ]


async def test_after_a_jump_of_the_clock_nothing_that_runners_report_is_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command that runs would end as lost: its run seems to be days old."""
    monkeypatch.setattr(server_background, "FORGET_RUNS_EVERY", 0)
    times, deleted = iter([None, None, 1_000]), list[bool]()

    async def time() -> int | None:
        return next(times)

    async def forget() -> None:
        assert not deleted
        deleted.append(True)

    stores: Any = SimpleNamespace(clock=SimpleNamespace(time=time), runners=SimpleNamespace(forget=forget))
    with pytest.raises(RuntimeError, match="StopIteration"):  # there are no more times
        await forget_runs_often(stores)
    assert deleted == [True]
