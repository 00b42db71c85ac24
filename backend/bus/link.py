"""The connections of one server to Redis: its inbox, the inboxes of others, and which servers are present.

One connection waits for what is written to the inbox; at most `COMMANDS` others query and write, each for a moment. All
times that servers compare are those of the clock of Redis, so the clocks of the servers need not agree.

    gatepost:bus:inbox:{server}   list: messages for a server. Expires some time after the last one
    gatepost:bus:at:{address}     sorted set: the servers at an address, by the time until which they are present
"""

import asyncio
import random
import re
from collections.abc import Callable, Coroutine, Mapping
from secrets import token_hex
from time import monotonic
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from backend.bus.messages import TOKEN, Message, decode, encode
from backend.core.dataclasses import dataclass

COMMANDS = (
    16  # connections for short exchanges; when all are in use, the next exchange waits for PATIENCE and then fails
)
PATIENCE = 2.0  # seconds for one exchange with Redis
WAIT = 2.0  # seconds that one read of the empty inbox waits
BATCH = 32  # messages read at once
ANNOUNCE_EVERY = 2.0  # seconds
PRESENCE_TTL = 8.0  # seconds after which a server that no longer announces itself is considered dead
INBOX_TTL = 60  # seconds; longer than any message is useful
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0  # seconds between two attempts to connect

Command = tuple[str | bytes | int | float, ...]
GONE = (RedisError, OSError)  # a TimeoutError is an OSError


@dataclass(frozen=True, slots=True)
class Presence:
    """The servers at an address at a time of the clock of Redis, in seconds."""

    servers: frozenset[str]
    now: float


def connection_arguments(url: str) -> dict[str, Any]:
    """The arguments of a connection to the Redis at `url`. Raises ValueError, whose text does not contain the URL."""
    try:
        found = dict(parse_url(re.sub(r"^redis\+unix://", "unix://", url)))
    except ValueError:
        raise ValueError("the URL of Redis is malformed") from None
    # With a socket_timeout, the library sends through asyncio.wait_for, which in Python 3.11 may swallow a cancellation.
    return found | {
        "decode_responses": False,
        "protocol": 2,
        "socket_timeout": None,
        "socket_connect_timeout": PATIENCE,
    }


class Link:
    """The inbox of a server, and access to those of others. `up` is set while the inbox is read."""

    def __init__(self, arguments: Mapping[str, Any], addresses: tuple[str, ...], report: Callable[[str], None]) -> None:
        self.id = token_hex(16)
        self.up = asyncio.Event()
        self.tried = asyncio.Event()
        self.closed = False
        self._addresses = [f"gatepost:bus:at:{address}" for address in addresses]
        self._withdrawn = False
        self._inbox = _inbox(self.id)
        self._report = report
        self._commands = _client(arguments, COMMANDS, retries=1)
        self._reading = _client(arguments, 1, retries=0)
        self._free = asyncio.Semaphore(COMMANDS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._offset = 0.0
        self._announce_at = 0.0

    @property
    def now(self) -> float:
        """The clock of Redis; ahead by no more than an exchange with it takes, and still right when this process was halted."""
        return self._offset + monotonic()

    @property
    def started(self) -> int:
        """How many tasks are running."""
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that ends with the link at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def push(self, server: str, message: Message) -> bool:
        """Write to a server. False when Redis is unavailable; the message may have arrived nevertheless, even twice."""
        key = _inbox(server)
        return await self._ask(("RPUSH", key, encode(message)), ("EXPIRE", key, INBOX_TTL)) is not None

    async def presence(self, address: str) -> Presence | None:
        """The servers at an address; None when Redis is unavailable."""
        found = await self._ask(("TIME",), ("ZRANGE", f"gatepost:bus:at:{address}", 0, -1, "WITHSCORES"))
        if found is None:
            return None
        now, members = _seconds(found[0]), found[1]
        until = zip(members[::2], map(float, members[1::2]), strict=True)
        servers = (server.decode("ascii", "replace") for server, end in until if end > now)
        return Presence(frozenset(filter(TOKEN.fullmatch, servers)), now)

    async def check(self) -> bool:
        """Whether Redis answers."""
        return await self._ask(("PING",)) is not None

    async def _ask(self, *commands: Command) -> list[Any] | None:
        try:
            async with asyncio.timeout(PATIENCE), self._free:
                return None if self.closed else await _execute(self._commands, *commands)
        except GONE:
            return None

    async def read(self, receive: Callable[[Message], None], interrupted: Callable[[], None]) -> None:
        """Pass on what is written to this server, until cancelled. Connects again after `interrupted`."""
        pause = FIRST_PAUSE
        while True:
            try:
                await self._read_batch(receive)
                pause = FIRST_PAUSE
            except GONE as error:
                self._lost()
                interrupted()
                await self._clear(str(error))
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _read_batch(self, receive: Callable[[Message], None]) -> None:
        if monotonic() >= self._announce_at:
            async with asyncio.timeout(PATIENCE):
                await self._announce()
        async with asyncio.timeout(WAIT + PATIENCE):
            waited, more = await _execute(self._reading, ("BLPOP", self._inbox, WAIT), ("LPOP", self._inbox, BATCH))
        for item in ([waited[1]] if waited else []) + (more or []):
            if message := decode(item):
                receive(message)

    async def _announce(self) -> None:
        asked = monotonic()
        now = _seconds((await _execute(self._reading, ("TIME",)))[0])
        self._offset = now - asked
        keys = [] if self._withdrawn else self._addresses
        await _execute(self._reading, *(command for key in keys for command in self._presence(key, now)))
        self._announce_at = asked + ANNOUNCE_EVERY
        self._found()

    def _presence(self, key: str, now: float) -> tuple[Command, ...]:
        return (
            ("ZADD", key, now + PRESENCE_TTL, self.id),
            ("ZREMRANGEBYSCORE", key, "-inf", now),
            ("EXPIRE", key, int(PRESENCE_TTL)),
        )

    def _found(self) -> None:
        if self.tried.is_set() and not self.up.is_set():
            self._report("The bus is back: executions of other servers can be reached.")
        self.tried.set()
        self.up.set()

    def _lost(self) -> None:
        if self.up.is_set() or not self.tried.is_set():
            self._report("The bus is away: executions of other servers cannot be reached.")
        self.tried.set()
        self.up.clear()
        self._announce_at = 0.0

    async def _clear(self, problem: str) -> None:
        """Delete keys of this server to which another client gave another type, so that the server can continue."""
        if "WRONGTYPE" not in problem:
            return
        right = {self._inbox: b"list"} | dict.fromkeys(self._addresses, b"zset")
        types = await self._ask(*(("TYPE", key) for key in right)) or []
        if wrong := [key for key, found in zip(right, types, strict=False) if found not in {right[key], b"none"}]:
            await self._ask(("DEL", *wrong))

    async def withdraw(self) -> None:
        """Withdraw the presence of this server. Its inbox is still read until the link is closed."""
        self._withdrawn = True
        if self.up.is_set():
            await self._ask(*(("ZREM", key, self.id) for key in self._addresses))

    async def close(self) -> None:
        """End all tasks that were started, and all connections once they are idle."""
        self.closed = True
        self.up.set()  # callers that wait for it find the link closed
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(COMMANDS):
            await self._free.acquire()
        self._free = asyncio.Semaphore(COMMANDS)
        for client in (self._commands, self._reading):
            await client.connection_pool.disconnect()


def _inbox(server: str) -> str:
    return f"gatepost:bus:inbox:{server}"


def _client(arguments: Mapping[str, Any], connections: int, retries: int) -> Redis:
    own = {"max_connections": connections, "retry": Retry(NoBackoff(), retries)}
    return Redis(connection_pool=ConnectionPool(**(dict(arguments) | own)))


async def _execute(client: Redis, *commands: Command) -> list[Any]:
    """The answers to commands that are sent together. Raises what GONE names."""
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    return await pipeline.execute()


def _seconds(time: tuple[int, int]) -> float:
    return time[0] + time[1] / 1e6
