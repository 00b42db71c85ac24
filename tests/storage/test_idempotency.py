"""Idempotency keys on both databases: one execution each, whoever asks at once."""

import asyncio

import pytest

from backend.accounts.credentials import Signer, new_signing_key
from backend.core.ids import ulid
from backend.core.ports import Claim
from backend.storage.database import POSTGRES_PATIENCE, Database
from backend.storage.idempotency_keys import KEPT, ORPHANED_AFTER, SqlIdempotencyKeys
from tests.storage.conftest import Clock
from tests.storage.writing import attempt, refusal, store

BODY, OTHER = bytes(32), b"o" * 32
FIRST, SECOND = ulid(1, 1), ulid(1, 2)


@pytest.fixture
def keys(database: Database, clock: Clock) -> SqlIdempotencyKeys:
    return SqlIdempotencyKeys(database, clock)


async def begin(database: Database, execution: str) -> None:
    ledger = store(database, Signer(new_signing_key()))
    await ledger.prepare()
    await ledger.open(attempt(id=execution))


async def test_the_first_has_it_and_the_others_wait_for_what_it_starts(
    keys: SqlIdempotencyKeys, database: Database
) -> None:
    assert await keys.claim("user:ann", "k", BODY, FIRST) == Claim(FIRST, mine=True, same_body=True)
    assert await keys.claim("user:ann", "k", BODY, SECOND) == Claim("", mine=False, same_body=True)
    await begin(database, FIRST)
    assert await keys.claim("user:ann", "k", BODY, SECOND) == Claim(FIRST, mine=False, same_body=True)
    assert (await keys.claim("user:ann", "k", OTHER, SECOND)).same_body is False


async def test_one_that_was_refused_is_not_what_a_key_stands_for(keys: SqlIdempotencyKeys, database: Database) -> None:
    """Between the record of the refusal and the release of the key, others ask with it."""
    await keys.claim("user:ann", "k", BODY, FIRST)
    ledger = store(database, Signer(new_signing_key()))
    await ledger.prepare()
    await ledger.refuse(attempt(id=FIRST, decision=refusal()))
    assert await keys.claim("user:ann", "k", BODY, SECOND) == Claim("", mine=False, same_body=True)
    await keys.release("user:ann", "k", FIRST)
    assert (await keys.claim("user:ann", "k", BODY, SECOND)).mine


async def test_keys_are_those_of_a_principal(keys: SqlIdempotencyKeys) -> None:
    assert (await keys.claim("user:ann", "k", BODY, FIRST)).mine
    assert (await keys.claim("user:bob", "k", BODY, SECOND)).mine
    assert (await keys.claim("user:ann", "K", BODY, SECOND)).mine


async def test_what_was_given_back_is_free(keys: SqlIdempotencyKeys) -> None:
    await keys.claim("user:ann", "k", BODY, FIRST)
    await keys.release("user:ann", "k", SECOND)
    assert not (await keys.claim("user:ann", "k", BODY, SECOND)).mine
    await keys.release("user:ann", "k", FIRST)
    await keys.release("user:ann", "k", FIRST)
    assert (await keys.claim("user:ann", "k", OTHER, SECOND)).mine


async def test_of_many_at_once_from_two_servers_one_has_it(new_url: str, database: Database, clock: Clock) -> None:
    others = [Database(new_url) for _ in range(2)]
    stores = [SqlIdempotencyKeys(each, clock) for each in others]
    claims = await asyncio.gather(
        *(stores[number % 2].claim("user:ann", "k", BODY, ulid(2, number)) for number in range(20))
    )
    assert sum(claim.mine for claim in claims) == 1
    for each in others:
        await each.close()


async def test_the_key_of_a_command_that_never_began_goes_to_one_who_asks_late(
    keys: SqlIdempotencyKeys, clock: Clock
) -> None:
    await keys.claim("user:ann", "k", BODY, FIRST)
    clock.now += ORPHANED_AFTER
    assert not (await keys.claim("user:ann", "k", BODY, SECOND)).mine
    clock.now += 1
    claims = await asyncio.gather(*(keys.claim("user:ann", "k", BODY, ulid(2, number)) for number in range(5)))
    assert sum(claim.mine for claim in claims) == 1


def test_a_key_outlasts_the_patience_with_a_database_that_hangs() -> None:
    """Else the first request, which waits for it, would run the command a second time."""
    reaching, asking = (
        POSTGRES_PATIENCE["connect_args"]["timeout"],
        POSTGRES_PATIENCE["connect_args"]["command_timeout"],
    )
    assert 2 * (POSTGRES_PATIENCE["pool_timeout"] + reaching + asking) < ORPHANED_AFTER / 1000


async def test_the_key_of_one_that_began_is_never_given_away(
    keys: SqlIdempotencyKeys, clock: Clock, database: Database
) -> None:
    await keys.claim("user:ann", "k", BODY, FIRST)
    await begin(database, FIRST)
    clock.now += ORPHANED_AFTER * 10
    assert await keys.claim("user:ann", "k", BODY, SECOND) == Claim(FIRST, mine=False, same_body=True)


async def test_old_keys_are_forgotten(keys: SqlIdempotencyKeys, clock: Clock) -> None:
    await keys.claim("user:ann", "old", BODY, FIRST)
    clock.now += KEPT
    await keys.claim("user:ann", "new", BODY, FIRST)
    clock.now += 1
    await keys.forget()
    assert (await keys.claim("user:ann", "old", OTHER, SECOND)).mine
    assert not (await keys.claim("user:ann", "new", OTHER, SECOND)).same_body


async def test_a_key_outlives_its_connection(new_url: str, keys: SqlIdempotencyKeys, clock: Clock) -> None:
    await keys.claim("user:ann", "k", BODY, FIRST)
    other = Database(new_url)
    assert not (await SqlIdempotencyKeys(other, clock).claim("user:ann", "k", BODY, SECOND)).mine
    await other.close()
