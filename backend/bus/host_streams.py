"""Enrolled hosts through Redis Streams: what a server sends to a host, and what the host sends back to this server.

    gatepost:host:{host}:jobs           stream: messages for a host, read by its agent as the consumer group `agent`
    gatepost:host:{host}:to:{server}    stream: messages of a host for one server, read as the consumer group `server`

A message is deleted when it has been received, so a stream is as long as what was not received. A host waits while too many
of its messages are there. A Redis that lost its streams loses nothing: the side that misses something asks for it again.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from backend.bus.link import FIRST_PAUSE, GONE, LONGEST_PAUSE, PATIENCE
from backend.core.hosts.envelope import Envelope, Party
from backend.core.hosts.messages import SeenIds
from backend.core.hosts.naming import jobs_stream, reply_stream
from backend.core.hosts.ports import HostsAway

GROUP = "server"
BLOCK = 1000  # milliseconds that one read of an empty stream waits
BATCH = 64  # messages that are read at once
MOST_JOBS = 1000  # messages that wait for a host; the oldest are dropped first, and sent again by who misses them
STREAM_TTL = 86400  # seconds after which a stream that nothing is added to expires
HELD = 64  # messages between a stream and an execution


@dataclass(slots=True)
class Reading:
    """The messages of one host for this server, while executions wait for them."""

    task: "asyncio.Task[None]"
    inboxes: dict[str, "asyncio.Queue[Envelope]"] = field(default_factory=dict)


@dataclass(slots=True)
class RedisHostStreams:
    """The streams of enrolled hosts, for the server `server`.

    `on_stray` gets the messages that no execution waits for.
    """

    client: Redis
    server: str
    now: Callable[[], float]
    nonce: Callable[[], str]
    on_stray: Callable[[str, Envelope], None]
    seen: SeenIds = field(default_factory=SeenIds)
    readings: dict[str, Reading] = field(default_factory=dict)

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """End all reading when the context ends."""
        try:
            yield
        finally:
            tasks = [reading.task for reading in self.readings.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(*GONE):
                await self.client.aclose(close_connection_pool=True)

    @asynccontextmanager
    async def messages_of(self, party: Party, execution: str) -> AsyncIterator["asyncio.Queue[Envelope]"]:
        """What a host says about an execution, within the context."""
        reading = self.readings.get(party.host)
        if reading is None or reading.task.done():
            task = asyncio.get_running_loop().create_task(self._read(party))
            reading = self.readings[party.host] = Reading(task)
        inbox = reading.inboxes[execution] = asyncio.Queue(HELD)
        try:
            yield inbox
        finally:
            del reading.inboxes[execution]
            while not inbox.empty():  # so that the reader of the host does not wait for it
                inbox.get_nowait()

    async def send(self, party: Party, kind: str, body: Mapping[str, Any]) -> None:
        """Send a message to a host. Raises HostsAway."""
        data = party.seal("host", kind, {**body, "server": self.server}, self.nonce(), self.now())
        try:
            async with asyncio.timeout(PATIENCE):
                pipeline = self.client.pipeline(transaction=False)
                pipeline.xadd(jobs_stream(party.host), {"m": data}, maxlen=MOST_JOBS)
                pipeline.expire(jobs_stream(party.host), STREAM_TTL)
                await pipeline.execute()
        except GONE as error:
            raise HostsAway() from error

    async def _read(self, party: Party) -> None:
        """Pass on the messages of a host until no execution waits for any."""
        pause, idle = FIRST_PAUSE, 0
        while idle < 60:
            try:
                idle = 0 if await self._read_batch(party) or self.readings[party.host].inboxes else idle + 1
                pause = FIRST_PAUSE
            except GONE:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _read_batch(self, party: Party) -> bool:
        stream = reply_stream(party.host, self.server)
        try:
            found = await self.client.xreadgroup(GROUP, self.server, {stream: ">"}, count=BATCH, block=BLOCK)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.client.xgroup_create(stream, GROUP, id="0", mkstream=True)
            return True
        entries = found[0][1] if found else []
        for _, fields in entries:
            await self._receive(party, fields)
        if ids := [id for id, _ in entries]:
            pipeline = self.client.pipeline(transaction=False)
            pipeline.xack(stream, GROUP, *ids)
            pipeline.xdel(stream, *ids)
            pipeline.expire(stream, STREAM_TTL)
            await pipeline.execute()
        return bool(entries)

    async def _receive(self, party: Party, fields: Mapping[bytes, bytes]) -> None:
        message = party.open(fields.get(b"m", b""), "server", self.now(), self.seen)
        if not isinstance(message, Envelope):
            return
        execution = message.body.get("execution")
        inbox = self.readings[party.host].inboxes.get(execution) if isinstance(execution, str) else None
        if inbox is None:
            self.on_stray(party.host, message)
        else:
            await inbox.put(message)
