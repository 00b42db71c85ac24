"""Idempotency keys of several servers, and of one whose database hangs."""

import asyncio

from backend.storage.database import PATIENCE, Database
from backend.storage.idempotency_keys import ORPHANED_AFTER, SqlIdempotencyKeys
from backend.storage.postgresql import FAREWELL
from tests.ids import numbered_id
from tests.storage.conftest import Clock

BODY = bytes(32)
FIRST, SECOND = numbered_id(1, 1), numbered_id(1, 2)


async def test_of_many_at_once_from_two_servers_one_has_it(new_url: str, database: Database, clock: Clock) -> None:
    others = [Database(new_url) for _ in range(2)]
    stores = [SqlIdempotencyKeys(each, clock) for each in others]
    claims = await asyncio.gather(
        *(stores[number % 2].claim("user:ann", "k", BODY, numbered_id(2, number)) for number in range(20))
    )
    assert sum(claim.mine for claim in claims) == 1
    for each in others:
        await each.close()


def test_a_key_outlasts_the_patience_with_a_database_that_hangs() -> None:
    """Else the first request, which waits for it, would run the command a second time."""
    assert 4 * (PATIENCE + FAREWELL) < ORPHANED_AFTER / 1000  # the claim, the start, its refusal, the release


async def test_a_key_outlives_its_connection(new_url: str, database: Database, clock: Clock) -> None:
    await SqlIdempotencyKeys(database, clock).claim("user:ann", "k", BODY, FIRST)
    other = Database(new_url)
    assert not (await SqlIdempotencyKeys(other, clock).claim("user:ann", "k", BODY, SECOND)).mine
    await other.close()
