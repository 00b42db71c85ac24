"""The connection of an agent to Redis: its commands arrive, its answers and its heartbeat leave.

While Redis is away the agent goes on: it reconnects with growing pauses, and its answers wait in the outbox.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from backend.core.dataclasses import dataclass
from backend.core.hosts.messages import Answer
from backend.core.hosts.naming import answer_channel, command_channel, registry_key
from backend.host_agent.outbox import Outbox

PATIENCE = 5.0  # seconds for one exchange with Redis
POLL = 1.0  # seconds that one read of the channel waits
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0  # seconds between two attempts to connect
TRY_AGAIN = 1.0  # seconds until what no backend received is sent again
MISSED = 3  # heartbeats after which the entry of a host expires
GONE = (RedisError, OSError)  # a TimeoutError is an OSError


@dataclass(slots=True)
class Link:
    """The link of one host. `seal` signs what is published; `report` is called when Redis goes away or is back."""

    client: Redis
    host: str
    interval: float
    fields: Callable[[], Mapping[str, str]]
    receive: Callable[[bytes], None]
    seal: Callable[[dict[str, Any]], Mapping[str, Any]]
    encode: Callable[[Mapping[str, Any]], bytes]
    outbox: Outbox
    now: Callable[[], int]
    report: Callable[[str], None]
    listening: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    due: asyncio.Event = field(default_factory=asyncio.Event)
    closing: bool = False
    _away: bool = False

    async def listen(self) -> None:
        """Pass on the commands of this host, until cancelled."""
        await self._again(self._listen)

    async def beat(self) -> None:
        """Refresh the entry of this host, until cancelled."""
        await self._again(self._beat)

    async def deliver(self) -> None:
        """Deliver answers, until cancelled."""
        await self._again(self._deliver)

    async def _again(self, work: Callable[[], Any]) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                await work()
                pause = FIRST_PAUSE
            except GONE as error:
                self.listening.clear()
                self.outbox_kept()
                self._report_away(error)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)

    def outbox_kept(self) -> None:
        """Have the answers that wait on disk."""
        if self.outbox.waiting:
            self.outbox.keep()

    async def _listen(self) -> None:
        async with self.client.pubsub(ignore_subscribe_messages=False) as channel:
            async with asyncio.timeout(PATIENCE):
                await channel.subscribe(command_channel(self.host))
            while True:
                message = await channel.get_message(timeout=POLL)
                match message:
                    case {"type": "subscribe"}:
                        self._report_back()
                        self.listening.set()
                    case {"type": "message", "data": bytes(data)}:
                        self.receive(data)
                    case _:
                        pass

    async def _beat(self) -> None:
        self.due.clear()
        await self.announce()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.interval):
                await self.due.wait()

    def announce_now(self) -> None:
        """Refresh the entry at once: Redis is back, and may have lost it."""
        self.due.set()

    async def announce(self) -> None:
        """Write the entry of this host."""
        async with asyncio.timeout(PATIENCE):
            pipeline = self.client.pipeline(transaction=True)
            pipeline.hset(registry_key(self.host), mapping=dict(self.fields()))
            pipeline.expire(registry_key(self.host), max(1, round(MISSED * self.interval)))
            await pipeline.execute()

    def answer(self, answer: Answer) -> None:
        """Have an answer delivered."""
        self.outbox.add(answer.body(self.now()))
        self.changed.set()

    async def _deliver(self) -> None:
        delivered = await self.outbox.deliver(self._publish)
        if not delivered:
            await asyncio.sleep(TRY_AGAIN)
            return
        await self.changed.wait()
        self.changed.clear()

    async def _publish(self, body: dict[str, Any]) -> int:
        async with asyncio.timeout(PATIENCE):
            return int(await self.client.publish(answer_channel(self.host), self.encode(self.seal(body))))

    def _report_away(self, error: Exception) -> None:
        if not self._away:
            self.report(f"Redis is away ({type(error).__name__}): commands do not arrive, answers are kept.")
        self._away = True

    def _report_back(self) -> None:
        if self._away:
            self.report("Redis is back.")
            self.announce_now()
        self._away = False

    async def leave(self) -> None:
        """Say that this host is offline, and deliver what still waits. Raises nothing."""
        self.closing = True
        with suppress(*GONE):
            await self.outbox.deliver(self._publish)
        self.outbox_kept()
        with suppress(*GONE):
            await self.announce()
        with suppress(*GONE):
            await self.client.aclose(close_connection_pool=True)
