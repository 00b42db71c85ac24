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
from dataclasses import field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from backend.bus.exchange import Exchange
from backend.bus.expiry import StreamExpiry
from backend.bus.link import FIRST_PAUSE, GONE, LONGEST_PAUSE, PATIENCE
from backend.core.dataclasses import dataclass
from backend.core.hosts.envelope import Envelope, Party
from backend.core.hosts.messages import SeenIds
from backend.core.hosts.naming import jobs_stream, reply_stream
from backend.core.hosts.ports import HostsAway

GROUP = "server"
BLOCK = 1.0  # seconds that one read of an empty stream waits
IDLE = 60  # such reads after the last execution on a host until its stream is no longer read
BATCH = 64  # messages that are read at once
MOST_JOBS = 1000  # messages that wait for a host; the oldest are dropped first, and sent again by who misses them
HELD = 64  # messages between a stream and an execution


@dataclass(slots=True)
class Reading:
    """The messages of one host for this server, while executions wait for them. `party` has the newest secret of the host."""

    party: Party
    task: "asyncio.Task[None]"
    inboxes: dict[str, "asyncio.Queue[Envelope]"] = field(default_factory=dict)
    received: list[bytes] = field(default_factory=list)  # to be acknowledged by the next read


@dataclass(slots=True)
class RedisHostStreams:
    """The streams of enrolled hosts, for the server `server`. `reader` tries each exchange once: see `_read`.

    `on_stray` gets the messages that no execution waits for.
    """

    client: Redis
    reader: Redis
    server: str
    now: Callable[[], float]
    nonce: Callable[[], str]
    on_stray: Callable[[str, Envelope], None]
    seen: SeenIds = field(default_factory=SeenIds)
    readings: dict[str, Reading] = field(default_factory=dict)
    expiry: StreamExpiry = field(init=False)
    _sending: Exchange = field(init=False)

    def __post_init__(self) -> None:
        self._sending = Exchange(self.client, PATIENCE)
        self.expiry = StreamExpiry(self.now)

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
            await self._sending.close()
            with suppress(*GONE):
                await self.reader.aclose(close_connection_pool=True)

    @asynccontextmanager
    async def messages_of(self, party: Party, execution: str) -> AsyncIterator["asyncio.Queue[Envelope]"]:
        """What a host says about an execution, within the context."""
        reading = self.readings.get(party.host)
        if reading is None or reading.task.done():
            task = asyncio.get_running_loop().create_task(self._read(party.host))
            reading = self.readings[party.host] = Reading(party, task)
        reading.party = party
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
        stream = jobs_stream(party.host)
        try:
            await self._sending.send(
                ("XADD", stream, "MAXLEN", "~", MOST_JOBS, "*", "m", data), *self.expiry.renewal(stream)
            )
        except GONE as error:
            self.expiry.due.clear()  # Redis may have lost the streams
            raise HostsAway() from error

    async def _read(self, host: str) -> None:
        """Pass on the messages of a host until no execution waits for any.

        After an interruption, first those that Redis has sent and that may not have arrived.
        """
        pause, idle, start = FIRST_PAUSE, 0, "0"
        while idle < IDLE:
            try:
                found = await self._read_batch(host, start)
                start = "0" if found and start == "0" else ">"
                idle = 0 if found or self.readings[host].inboxes else idle + 1
                pause = FIRST_PAUSE
            except GONE:
                start = "0"
                self.expiry.due.clear()
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _read_batch(self, host: str, start: str) -> bool:
        """Acknowledge what was received, and receive what follows, in one exchange."""
        stream, reading = reply_stream(host, self.server), self.readings[host]
        pipeline = self.reader.pipeline(transaction=False)
        if reading.received:
            pipeline.xack(stream, GROUP, *reading.received)
            pipeline.xdel(stream, *reading.received)
            for command in self.expiry.renewal(stream):
                pipeline.execute_command(*command)
        pipeline.xreadgroup(GROUP, self.server, {stream: start}, count=BATCH, block=round(BLOCK * 1000))
        async with asyncio.timeout(BLOCK + PATIENCE):  # a connection that was cut silently never answers
            *_, found = await pipeline.execute(raise_on_error=False)
        reading.received = []
        if isinstance(found, ResponseError) and "NOGROUP" in str(found):
            self.expiry.due.pop(stream, None)
            await self.reader.xgroup_create(stream, GROUP, id="0", mkstream=True)
            return True
        if isinstance(found, Exception):
            raise found
        entries = found[0][1] if found else []
        for id, fields in entries:
            await self._receive(reading, fields or {})
            reading.received.append(id)
        return bool(entries)

    async def _receive(self, reading: Reading, fields: Mapping[bytes, bytes]) -> None:
        message = reading.party.open(fields.get(b"m", b""), "server", self.now(), self.seen)
        if not isinstance(message, Envelope):
            return
        execution = message.body.get("execution")
        inbox = reading.inboxes.get(execution) if isinstance(execution, str) else None
        if inbox is None:
            self.on_stray(reading.party.host, message)
        else:
            await inbox.put(message)
