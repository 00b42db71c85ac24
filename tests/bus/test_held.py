"""The connection that is held: answers belong to their commands whatever happens to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis import Redis as Client
from redis.asyncio import ConnectionPool, UnixDomainSocketConnection
from redis.asyncio import Redis as AsyncClient
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from backend.bus.held import HeldConnection
from backend.bus.link import GONE
from tests.redis_server import Redis

BOUND = 30.0  # seconds


@asynccontextmanager
async def held(redis: Redis, retries: int = 0) -> AsyncIterator[HeldConnection]:
    retry = Retry(NoBackoff(), retries)
    pool = ConnectionPool(connection_class=UnixDomainSocketConnection, path=str(redis.path), retry=retry)
    client = AsyncClient(connection_pool=pool)
    made = HeldConnection(client)
    try:
        async with asyncio.timeout(BOUND):
            yield made
    finally:
        await made.close()
        await client.aclose(close_connection_pool=True)


def other(redis: Redis) -> Any:
    return Client(unix_socket_path=str(redis.path))


async def until_blocked(client: Any) -> None:
    async with asyncio.timeout(BOUND):
        while not client.info("clients")["blocked_clients"]:
            await asyncio.sleep(0)


async def test_answers_have_the_form_of_the_client_and_errors_are_among_them(redis: Redis) -> None:
    async with held(redis) as connection:
        first, refused, last = await connection.exchange([("HSET", "k", "a", 1), ("INCR", "k"), ("HGETALL", "k")])
        assert (first, last) == (1, {b"a": b"1"})
        assert isinstance(refused, ResponseError)
        assert len(other(redis).client_list()) == 2


async def test_one_that_redis_has_closed_is_replaced_before_it_is_used(redis: Redis) -> None:
    async with held(redis) as connection:
        await connection.exchange([("PING",)])
        other(redis).client_kill_filter(_type="normal", skipme=True)
        for _ in range(3):  # turns in which the loop notices the end
            await asyncio.sleep(0)
        assert await connection.exchange([("ECHO", "x")]) == [b"x"]


async def test_what_is_cut_off_is_tried_again_if_the_client_does_it(redis: Redis) -> None:
    client = other(redis)
    async with held(redis, retries=1) as connection:
        waiting = asyncio.create_task(connection.exchange([("BLPOP", "k", 0)]))
        await until_blocked(client)
        client.client_kill_filter(_type="normal", skipme=True)
        client.rpush("k", "v")
        assert await waiting == [(b"k", b"v")]


async def test_what_is_cut_off_fails_if_the_client_tries_once(redis: Redis) -> None:
    client = other(redis)
    async with held(redis) as connection:
        waiting = asyncio.create_task(connection.exchange([("BLPOP", "k", 0)]))
        await until_blocked(client)
        client.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(GONE):
            await waiting
        assert await connection.exchange([("ECHO", "x")]) == [b"x"]


async def test_the_answer_to_what_was_cancelled_is_not_that_of_the_next(redis: Redis) -> None:
    client = other(redis)
    async with held(redis) as connection:
        waiting = asyncio.create_task(connection.exchange([("BLPOP", "k", 0), ("ECHO", "late")]))
        await until_blocked(client)
        waiting.cancel()
        await asyncio.wait({waiting})
        client.rpush("k", "v")
        assert await connection.exchange([("ECHO", "x")]) == [b"x"]
