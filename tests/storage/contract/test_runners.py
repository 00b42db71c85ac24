"""The store of runners: keys, commands, answers and runs."""

import asyncio
from dataclasses import replace

import pytest

from backend.core.django.commands import ManagementCommand, command_list
from backend.core.django.ports import Added, Caller, Reply, RunnerStore, RunnerVersions, StoredAnswer
from backend.core.django.runs import Chunk, RunEnd, StopLevel
from backend.core.identity import Role
from backend.storage.identities import SqlIdentities
from backend.storage.memory.identities import MemoryIdentities
from backend.storage.memory.projects import MemoryProjects
from backend.storage.projects import SqlProjects
from tests.storage.conftest import Clock
from tests.storage.contract.worlds import World

HASH, OTHER = b"h" * 32, b"o" * 32
EXECUTION = "E" * 26
MINUTE = 60_000


@pytest.fixture
def runners(world: World) -> RunnerStore:
    return world.runners


@pytest.fixture
async def project(identities: SqlIdentities | MemoryIdentities, projects: SqlProjects | MemoryProjects) -> str:
    user = await identities.add_user("ann", Role.OPERATOR)
    assert user
    return (await projects.add("shop", user.id)).id


async def test_a_key_is_found_by_its_secret_until_it_ends(
    runners: RunnerStore, project: str, clock: Clock, projects: SqlProjects | MemoryProjects
) -> None:
    key = await runners.add_key(project, "production", HASH)
    assert await runners.key_by_secret(HASH) == await runners.key(key.id) == key
    assert await runners.key_by_secret(OTHER) is None
    assert await runners.keys([project]) == [key]
    assert await runners.projects_with_keys() == {project}
    assert await runners.keys(["0" * 26]) == []
    assert await runners.end_key(key.id, clock.now + MINUTE)
    assert await runners.end_key(key.id, clock.now + 2 * MINUTE)  # not longer than it was
    ending = await runners.key_by_secret(HASH)
    assert ending
    assert ending.is_valid(clock.now)
    assert not ending.is_valid(clock.now + MINUTE)
    assert not await runners.end_key("0" * 26, 0)
    assert await projects.delete(project)
    assert await runners.key_by_secret(HASH) is None


async def test_a_key_belongs_to_a_project_and_has_a_name(runners: RunnerStore, project: str) -> None:
    with pytest.raises(ValueError, match="no such project"):
        await runners.add_key("0" * 26, "x", HASH)
    with pytest.raises(ValueError, match="a name must"):
        await runners.add_key(project, " ", HASH)


async def test_a_runner_is_seen_suspended_and_resumed(runners: RunnerStore, project: str, clock: Clock) -> None:
    key = await runners.add_key(project, "production", HASH)
    await runners.seen(key.id, RunnerVersions("0.1.0", "3.12.1", "5.2" * 99))
    assert await runners.suspend(key.id, "maintenance")
    found = await runners.key(key.id)
    assert found
    assert (found.seen_ms, found.suspended) == (clock.now, "maintenance")
    assert found.versions == RunnerVersions("0.1.0", "3.12.1", ("5.2" * 99)[:64])
    assert await runners.suspend(key.id, None)
    resumed = await runners.key(key.id)
    assert resumed
    assert resumed.suspended is None
    assert not await runners.suspend("0" * 26, None)


async def test_commands_are_replaced_as_a_whole(runners: RunnerStore, project: str) -> None:
    assert await runners.commands(project) is None
    assert await runners.commands_hash(project) == ""
    for names in (["migrate", "check"], ["clearsessions"]):
        listed = command_list(ManagementCommand(name, "django.core", "usage: ü") for name in names)
        await runners.set_commands(project, listed)
        assert await runners.commands(project) == listed
        assert await runners.commands_hash(project) == listed.hash


async def test_the_first_answer_stays_for_some_minutes(runners: RunnerStore, project: str, clock: Clock) -> None:
    key, other = await runners.add_key(project, "production", HASH), await runners.add_key(project, "test", OTHER)
    first, second = StoredAnswer(HASH, 200, '{"a":"ü"}'), StoredAnswer(OTHER, 409, "{}")
    for answer in (first, second):
        await runners.remember(key.id, "nonce", answer)
    assert await runners.caller(HASH, "nonce") == Caller(key, first)
    assert await runners.caller(HASH, "another") == Caller(key, None)
    assert await runners.caller(OTHER, "nonce") == Caller(other, None)
    assert await runners.caller(b"?" * 32, "nonce") is None
    clock.now += 11 * MINUTE
    await runners.forget()
    assert await runners.caller(HASH, "nonce") == Caller(key, first)
    clock.now += 5 * MINUTE
    await runners.forget()
    assert await runners.caller(HASH, "nonce") == Caller(key, None)


async def test_one_request_starts_an_execution(runners: RunnerStore, clock: Clock) -> None:
    begun = await asyncio.gather(
        *(runners.begin(EXECUTION, "K" * 26, f"{i}", muted=False, timeout_ms=MINUTE) for i in range(8))
    )
    assert sorted(begun) == [False] * 7 + [True]
    run = await runners.run(EXECUTION)
    assert run
    assert (run.nonce, run.timeout_ms) == (f"{begun.index(True)}", MINUTE)
    assert await runners.begin(EXECUTION, "K" * 26, run.nonce, muted=False, timeout_ms=MINUTE)  # the same request again
    await runners.abandon(EXECUTION, "another")
    assert await runners.run(EXECUTION) == run
    clock.now += MINUTE + 1  # its server died before it ran
    assert await runners.begin(EXECUTION, "L" * 26, "later", muted=False, timeout_ms=1)
    later = await runners.run(EXECUTION)
    assert later
    assert (later.key, later.timeout_ms) == ("L" * 26, 1)
    await runners.abandon(EXECUTION, "later")
    assert await runners.run(EXECUTION) is None


async def test_chunks_are_stored_once_and_read_in_order(runners: RunnerStore) -> None:
    assert await runners.add_chunk(EXECUTION, Chunk(1, False, "x")) is Added.UNKNOWN
    await runners.begin(EXECUTION, "K" * 26, "n", muted=False, timeout_ms=MINUTE)
    three, one = Chunk(3, True, "three ü\ufffd"), Chunk(1, False, "one\n")
    assert await runners.add_chunk(EXECUTION, Chunk(3, True, "three ü\0")) in {Added.NEW}
    stored = (await runners.chunks(EXECUTION, 1, (), 9))[0]
    assert stored.text in {three.text, "three ü\0"}
    both = await asyncio.gather(*(runners.add_chunk(EXECUTION, one) for _ in range(4)))
    assert sorted(both, key=str) == [Added.KNOWN, Added.KNOWN, Added.KNOWN, Added.NEW]
    assert [each.number for each in await runners.chunks(EXECUTION, 1, (), 9)] == [1, 3]
    assert [each.number for each in await runners.chunks(EXECUTION, 1, (), 1)] == [1]
    assert [each.number for each in await runners.chunks(EXECUTION, 3, {1, 2}, 9)] == [1, 3]
    assert await runners.chunks(EXECUTION, 4, (), 9) == []
    await runners.close_run(EXECUTION)
    assert await runners.add_chunk(EXECUTION, one) is Added.LATE
    assert await runners.chunks(EXECUTION, 1, (), 9) == []


async def test_a_chunk_is_stored_with_what_its_request_is_answered(runners: RunnerStore, project: str) -> None:
    key = await runners.add_key(project, "production", HASH)
    await runners.begin(EXECUTION, key.id, "n", muted=False, timeout_ms=MINUTE)
    first, second = (Reply(key.id, "nonce", StoredAnswer(digest, 200, "{}")) for digest in (HASH, OTHER))
    assert await runners.add_chunk("F" * 26, Chunk(1, False, "x"), first) is Added.UNKNOWN
    assert await runners.caller(HASH, "nonce") == Caller(key, None)
    assert await runners.add_chunk(EXECUTION, Chunk(1, False, "x"), first) is Added.NEW
    assert await runners.add_chunk(EXECUTION, Chunk(2, False, "y"), second) is Added.NEW
    assert await runners.caller(HASH, "nonce") == Caller(key, first.answer)
    assert [each.text for each in await runners.chunks(EXECUTION, 1, (), 9)] == ["x", "y"]
    known = Reply(key.id, "another", first.answer)
    assert await runners.add_chunk(EXECUTION, Chunk(2, False, "y"), known) is Added.KNOWN
    assert await runners.caller(HASH, "another") == Caller(key, first.answer)
    await runners.close_run(EXECUTION)
    assert await runners.add_chunk(EXECUTION, Chunk(3, False, "z"), Reply(key.id, "late", first.answer)) is Added.LATE
    assert await runners.caller(HASH, "late") == Caller(key, None)


async def test_a_muted_run_stores_no_output(runners: RunnerStore) -> None:
    await runners.begin(EXECUTION, "K" * 26, "n", muted=True, timeout_ms=MINUTE)
    await runners.add_chunk(EXECUTION, Chunk(1, False, "secret"))
    assert await runners.chunks(EXECUTION, 1, (), 9) == [Chunk(1, False, "")]


async def test_the_first_end_and_the_highest_stop_stay(runners: RunnerStore, clock: Clock) -> None:
    assert not await runners.complete(EXECUTION, RunEnd("success", 0))
    await runners.begin(EXECUTION, "K" * 26, "n", muted=False, timeout_ms=MINUTE)
    for level in (StopLevel.CANCEL, StopLevel.KILL, StopLevel.CANCEL):
        await runners.ask_to_stop(EXECUTION, level, mute=level is StopLevel.KILL)
    assert await runners.complete(EXECUTION, RunEnd("failed", -9))
    assert not await runners.complete(EXECUTION, RunEnd("success", 0))
    run = await runners.run(EXECUTION)
    assert run
    assert (run.stop, run.muted, run.end, run.closed) == (StopLevel.KILL, True, RunEnd("failed", -9), False)
    clock.now += 3 * 24 * 60 * MINUTE
    await runners.forget()
    assert await runners.run(EXECUTION) is None


async def test_a_call_shows_that_the_runner_is_alive(runners: RunnerStore, clock: Clock) -> None:
    await runners.begin(EXECUTION, "K" * 26, "n", muted=False, timeout_ms=MINUTE)
    begun = await runners.run(EXECUTION)
    assert begun
    clock.now += MINUTE
    await runners.heard(begun)
    run = await runners.run(EXECUTION)
    assert run
    assert run.heard_ms == clock.now
    await runners.heard(replace(begun, execution="0" * 26))
