"""Exchanges with Redis that several senders share, and the hosts that it forgets."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis import Redis as Client
from redis.asyncio import Redis as AsyncClient
from redis.exceptions import RedisError, ResponseError

from backend.bus.exchange import Exchange
from backend.bus.hosts import RedisHosts
from tests.redis_server import Redis


@asynccontextmanager
async def exchange(redis: Redis) -> AsyncIterator[Exchange]:
    made = Exchange(AsyncClient(unix_socket_path=str(redis.path)), patience=2.0)
    try:
        yield made
    finally:
        await made.close()


def exchanges(redis: Redis) -> int:
    """How often Redis has read something from a client."""
    client: Any = Client(unix_socket_path=str(redis.path))
    return int(client.info("stats")["total_reads_processed"])


async def test_senders_share_an_exchange_and_get_their_own_answers(redis: Redis) -> None:
    async with exchange(redis) as shared:
        await shared.send(("PING",))
        before = exchanges(redis)
        answers = await asyncio.gather(*(shared.send(("SET", f"k{n}", n), ("GET", f"k{n}")) for n in range(50)))
        assert [answer[1] for answer in answers] == [str(n).encode() for n in range(50)]
        assert exchanges(redis) - before < 15


async def test_a_command_that_redis_refuses_is_the_error_of_its_sender_alone(redis: Redis) -> None:
    async with exchange(redis) as shared:
        good, bad = shared.put(("SET", "k", "v")), shared.put(("INCR", "k"), ("PING",))
        abandoned = shared.put(("PING",))
        abandoned.cancel()
        assert await good == [True]
        with pytest.raises(ResponseError):
            await bad


async def test_without_redis_every_sender_is_told(redis: Redis) -> None:
    async with exchange(redis) as shared:
        redis.stop()
        found = await asyncio.gather(*(shared.send(("PING",)) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(each, RedisError | OSError) for each in found)
        redis.start()
        assert await shared.send(("ECHO", "x")) == [b"x"]


async def test_a_host_that_redis_has_forgotten_is_still_known(redis: Redis) -> None:
    hosts = RedisHosts(redis.url, time.time, lambda *_: True, lambda _: None, lambda *_: True)
    client: Any = Client(unix_socket_path=str(redis.path))
    async with hosts.joined():
        client.hset("agents:web-01", mapping={"status": "online", "last_heartbeat": int(time.time())})
        found = await hosts.entry("web-01")
        assert found
        assert found.is_healthy(time.time())
        client.flushall()
        lost = await hosts.entry("web-01")
        assert lost == (await hosts.entries())[0]
        assert lost
        assert (lost.is_healthy(time.time()), lost.may_return(time.time())) == (False, True)
        assert await hosts.entry("web-02") is None


async def test_a_host_is_read_again_when_its_entry_has_changed_or_is_no_longer_genuine(redis: Redis) -> None:
    genuine = True
    hosts = RedisHosts(redis.url, time.time, lambda *_: True, lambda _: None, lambda *_: genuine)
    client: Any = Client(unix_socket_path=str(redis.path))
    entry = {"status": "online", "last_heartbeat": int(time.time()), "version": "1", "signature": "a"}
    async with hosts.joined():
        client.hset("agents:web-01", mapping=entry)
        first = await hosts.entry("web-01")
        client.config_resetstat()
        assert await hosts.entry("web-01") == first
        assert "cmdstat_hgetall" not in client.info("commandstats")
        client.hset("agents:web-01", mapping={"version": "2", "signature": "b"})
        changed = await hosts.entry("web-01")
        assert changed
        assert changed.version == "2"
        genuine = False
        forged = await hosts.entry("web-01")
        assert forged
        assert forged.gone
        client.delete("agents:web-01")
        genuine = True
        lost = await hosts.entry("web-01")
        assert lost
        assert lost.gone
