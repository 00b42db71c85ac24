"""Idempotency keys in memory and on both databases: one execution each, whoever asks at once."""

import asyncio

import pytest

from backend.core.ports import Claim
from backend.storage.idempotency_keys import KEPT, ORPHANED_AFTER, SqlIdempotencyKeys
from backend.storage.memory.idempotency_keys import MemoryIdempotencyKeys
from tests.ids import numbered_id
from tests.storage.conftest import Clock
from tests.storage.contract.worlds import Server, World
from tests.storage.writing import attempt, refusal

Keys = SqlIdempotencyKeys | MemoryIdempotencyKeys

BODY, OTHER = bytes(32), b"o" * 32
FIRST, SECOND = numbered_id(1, 1), numbered_id(1, 2)


@pytest.fixture
def keys(world: World) -> Keys:
    return world.keys


async def begin(server: Server, execution: str) -> None:
    await server.log.open(attempt(id=execution))


async def test_the_first_has_it_and_the_others_wait_for_what_it_starts(keys: Keys, server: Server) -> None:
    assert await keys.claim("user:ann", "k", BODY, FIRST) == Claim(FIRST, mine=True, same_body=True)
    assert await keys.claim("user:ann", "k", BODY, SECOND) == Claim("", mine=False, same_body=True)
    await begin(server, FIRST)
    assert await keys.claim("user:ann", "k", BODY, SECOND) == Claim(FIRST, mine=False, same_body=True)
    assert (await keys.claim("user:ann", "k", OTHER, SECOND)).same_body is False


async def test_one_that_was_refused_is_not_what_a_key_stands_for(keys: Keys, server: Server) -> None:
    """Between the record of the refusal and the release of the key, others ask with it."""
    await keys.claim("user:ann", "k", BODY, FIRST)
    await server.log.refuse(attempt(id=FIRST, decision=refusal()))
    assert await keys.claim("user:ann", "k", BODY, SECOND) == Claim("", mine=False, same_body=True)
    await keys.release("user:ann", "k", FIRST)
    assert (await keys.claim("user:ann", "k", BODY, SECOND)).mine


async def test_keys_are_those_of_a_principal(keys: Keys) -> None:
    assert (await keys.claim("user:ann", "k", BODY, FIRST)).mine
    assert (await keys.claim("user:bob", "k", BODY, SECOND)).mine
    assert (await keys.claim("user:ann", "K", BODY, SECOND)).mine


async def test_what_was_given_back_is_free(keys: Keys) -> None:
    await keys.claim("user:ann", "k", BODY, FIRST)
    await keys.release("user:ann", "k", SECOND)
    assert not (await keys.claim("user:ann", "k", BODY, SECOND)).mine
    await keys.release("user:ann", "k", FIRST)
    await keys.release("user:ann", "k", FIRST)
    assert (await keys.claim("user:ann", "k", OTHER, SECOND)).mine


async def test_the_key_of_a_command_that_never_began_goes_to_one_who_asks_late(keys: Keys, clock: Clock) -> None:
    await keys.claim("user:ann", "k", BODY, FIRST)
    clock.now += ORPHANED_AFTER
    assert not (await keys.claim("user:ann", "k", BODY, SECOND)).mine
    clock.now += 1
    claims = await asyncio.gather(*(keys.claim("user:ann", "k", BODY, numbered_id(2, number)) for number in range(5)))
    assert sum(claim.mine for claim in claims) == 1


async def test_a_clock_that_was_set_back_does_not_let_a_key_be_waited_for_longer(keys: Keys, clock: Clock) -> None:
    await keys.claim("user:ann", "k", BODY, FIRST)
    clock.now -= 3600_000
    assert not (await keys.claim("user:ann", "k", BODY, SECOND)).mine
    clock.now += ORPHANED_AFTER + 1
    assert (await keys.claim("user:ann", "k", BODY, SECOND)).mine


async def test_the_key_of_one_that_began_is_never_given_away(keys: Keys, clock: Clock, server: Server) -> None:
    await keys.claim("user:ann", "k", BODY, FIRST)
    await begin(server, FIRST)
    clock.now += ORPHANED_AFTER * 10
    assert await keys.claim("user:ann", "k", BODY, SECOND) == Claim(FIRST, mine=False, same_body=True)


async def test_old_keys_are_forgotten(keys: Keys, clock: Clock) -> None:
    await keys.claim("user:ann", "old", BODY, FIRST)
    clock.now += KEPT
    await keys.claim("user:ann", "new", BODY, FIRST)
    clock.now += 1
    await keys.forget()
    assert (await keys.claim("user:ann", "old", OTHER, SECOND)).mine
    assert not (await keys.claim("user:ann", "new", OTHER, SECOND)).same_body
