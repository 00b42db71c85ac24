"""A connection to PostgreSQL, when the server stops answering."""

import asyncio
import os
import signal
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from backend.core.errors import StorageError
from backend.storage.postgresql import POOL, BoundedConnection, _Turns


async def test_a_transaction_of_a_server_that_stopped_is_given_up_at_once(postgresql: Any) -> None:
    """Its rollback would wait for the answer to what was cancelled, as that of SQLAlchemy's ping would."""
    connection = await asyncpg.connect(postgresql.get_uri(), connection_class=BoundedConnection)
    pid = await connection.fetchval("select pg_backend_pid()")
    transaction = connection.transaction()
    await transaction.start()
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    try:
                        await connection.fetchrow(";")
                    finally:
                        await transaction.rollback()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert connection.is_closed()


async def test_what_waits_for_a_connection_longer_than_the_database_is_open_gets_none() -> None:
    turns, over = _Turns(), asyncio.Event()

    async def transaction() -> None:
        async with turns.take(None):
            await over.wait()

    working = [asyncio.create_task(transaction()) for _ in range(POOL)]
    waiting = asyncio.create_task(transaction())
    await asyncio.sleep(0)  # each has its turn, or waits for one
    await turns.close()
    over.set()
    await asyncio.gather(*working)
    with pytest.raises(StorageError, match="closed"):
        await waiting
