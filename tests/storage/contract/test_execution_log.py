"""The execution log: what is written of a command from its request to its end."""

import asyncio

import pytest

from backend.core.audit.attempts import Completion
from backend.core.decisions import Decision, Risk
from backend.core.errors import StorageError
from backend.core.execution.model import Status, Usage
from backend.core.identity import Principal
from backend.core.recording.digest import RecordingDigest
from tests.storage.contract.worlds import FEW, Server, World
from tests.storage.writing import ANN, ENDED, FOLDER, attempt, refusal

LOST = Completion(Status.LOST, None, 0)


async def kinds(world: World, execution: str) -> list[str]:
    return [event["kind"] for event in await world.events() if event.get("execution") == execution]


async def status(world: World, execution: str) -> Status | None:
    found = await world.history.get(execution)
    return found.status if found else None


async def test_a_command_is_a_record_and_events(world: World, server: Server) -> None:
    one = attempt()
    await server.log.open(one)
    found = await world.history.get(one.id)
    assert found
    assert (found.status, found.owner, found.folder) == (Status.RUNNING, server.ownership.owner, FOLDER)
    usage = Usage(cpu_ms=3, peak_memory_bytes=4, read_bytes=5, written_bytes=6, protection="L2", layers=("landlock",))
    end = Completion(Status.CANCELLED, 143, 12, stopped_by="user:bob", usage=usage, recording=RecordingDigest(7, "ab"))
    assert await server.log.close(one, end)
    found = await world.history.get(one.id)
    assert found
    assert (found.status, found.exit_code, found.duration_ms, found.protection) == (Status.CANCELLED, 143, 12, "L2")
    assert (found.cpu_ms, found.peak_memory_bytes, found.read_bytes, found.written_bytes) == (3, 4, 5, 6)
    submitted, started, cancelled, finished = await world.events()
    assert (submitted["kind"], submitted["command"], started["kind"]) == ("submitted", one.command, "started")
    assert (cancelled["kind"], cancelled["by"]) == ("cancelled", "user:bob")
    assert (finished["kind"], finished["status"], finished["layers"]) == ("finished", "cancelled", ["landlock"])
    assert {"bytes": 7, "sha256": "ab", "complete": True}.items() <= finished["recording"].items()
    assert finished["recording"]["folder"]


async def test_a_refusal_is_a_record_that_no_server_owns(world: World, server: Server) -> None:
    denied, limited = attempt(decision=refusal()), attempt(decision=refusal("limits.rate"))
    for each in (denied, limited):
        await server.log.refuse(each)
        found = await world.history.get(each.id)
        assert found
        assert (found.status, found.owner) == (Status.DENIED, None)
    assert [event["kind"] for event in await world.events()] == ["denied", "rate_limited"]


async def test_of_a_flood_of_refusals_the_beginning_is_written_and_how_many_there_were(
    world: World, server: Server
) -> None:
    made = [attempt(decision=refusal("limits.rate")) for _ in range(FEW + 7)]
    for each in made:
        await server.log.refuse(each)
    assert [await status(world, each.id) is not None for each in made] == [True] * FEW + [False] * 7
    server.executions.close_floods()
    async with asyncio.timeout(60):
        while len(events := await world.events()) <= FEW:
            await asyncio.sleep(0)
    assert (events[-1]["suppressed"], events[-1]["rule"]) == (7, "limits.rate")


async def test_a_dry_run_never_started_and_a_step_with_other_words_did(world: World, server: Server) -> None:
    dry, one = attempt(dry_run=True), attempt()
    await server.log.open(dry)
    await server.log.open(one)
    decision = Decision(True, "allow.cat", Risk.HIGH, "")
    await server.log.step(one.id, Principal("user:ann", "10.0.0.1"), (("cat", "made.txt"),), decision)
    assert await kinds(world, dry.id) == ["submitted"]
    assert await kinds(world, one.id) == ["submitted", "started", "started"]
    last = (await world.events())[-1]
    assert (last["argv"], last["rule"], last["risk"]) == ([["cat", "made.txt"]], "allow.cat", "high")
    assert last["actor"] == ANN.name


async def test_the_first_end_stays(world: World, server: Server) -> None:
    other, one = await world.server("B" * 26), attempt()
    await server.log.open(one)
    assert await other.log.close(one, LOST)
    assert not await server.log.close(one, ENDED)
    assert not await other.log.close(one, ENDED)
    assert await status(world, one.id) is Status.LOST
    assert await kinds(world, one.id) == ["submitted", "started", "lost"]


async def test_of_ends_that_come_at_once_each_execution_gets_one_and_no_other_is_held_up(
    world: World, server: Server
) -> None:
    other, made = await world.server("B" * 26), [attempt() for _ in range(6)]
    for each in made:
        await server.log.open(each)
    assert await other.log.close(made[2], LOST)
    twice = [*made, *made[4:]]
    results = await asyncio.gather(*(server.log.close(each, ENDED) for each in twice), server.log.open(attempt()))
    assert results == [True, True, False, True, True, True, False, False, None]
    for each in made:
        assert len(await kinds(world, each.id)) == 3


async def test_what_was_never_opened_cannot_end(world: World, server: Server) -> None:
    assert not await server.log.close(attempt(), ENDED)
    assert await world.events() == []


async def test_an_end_that_could_not_be_written_is_written_later_and_once(world: World, server: Server) -> None:
    one, two, three = attempt(), attempt(), attempt()
    for each in (one, two, three):
        await server.log.open(each)
    async with world.outage():
        for each in (one, two):
            with pytest.raises(StorageError):
                await server.log.close(each, ENDED)
        assert await server.log.retry_unwritten() == 0
    assert await server.ownership.renew() == frozenset()
    other = await world.server("B" * 26)
    assert await other.log.close(two, LOST)
    assert await server.log.retry_unwritten() == 2
    assert await server.log.retry_unwritten() == 0
    assert [await status(world, each.id) for each in (one, two, three)] == [
        Status.SUCCEEDED,
        Status.LOST,
        Status.RUNNING,
    ]
    assert await kinds(world, one.id) == ["submitted", "started", "finished"]
    assert await kinds(world, two.id) == ["submitted", "started", "lost"]


async def test_an_id_is_given_once(world: World, server: Server) -> None:
    one = attempt()
    await server.log.open(one)
    with pytest.raises(StorageError):
        await server.log.open(one)
    assert await kinds(world, one.id) == ["submitted", "started"]
