"""Hosts through Redis: the registry that their agents refresh, and the channels of commands and answers.

    agents:{host}          hash: the entry of a host, which expires when its agent no longer refreshes it
    gatepost:hosts:seen    hash: the last entry of each host, so that one that has crashed is listed as offline

One connection listens for the answers of all hosts that were sent something; others query and publish, each for a moment.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from backend.bus.link import FIRST_PAUSE, GONE, LONGEST_PAUSE, PATIENCE, connection_arguments
from backend.core.hosts.messages import Answer, read_answer, read_object
from backend.core.hosts.naming import (
    ANSWERS_PREFIX,
    REGISTRY_PREFIX,
    answer_channel,
    command_channel,
    is_host_id,
    registry_key,
)
from backend.core.hosts.ports import HostsAway, LateAnswer
from backend.core.hosts.registry import HostEntry

SEEN = "gatepost:hosts:seen"
FORGOTTEN_AFTER = 30 * 86400  # seconds since the last heartbeat after which a host is no longer listed
LATE_FOR = 900.0  # seconds for which an answer that is late is still recorded
SCANNED = 500  # keys that Redis looks at for one step of a search
MOST_HOSTS = 5000
POLL = 1.0  # seconds that one read of the answers waits

# Whether an answer comes from its host: the host, the message. False drops it.
Genuine = Callable[[str, Mapping[str, Any]], bool]


@dataclass(slots=True)
class Inbox:
    """Where the answer to one command arrives."""

    host: str
    answer: "asyncio.Future[Answer]"
    late_until: float = 0.0  # set when the execution has ended without it

    async def wait(self) -> Answer:
        return await asyncio.shield(self.answer)


@dataclass(slots=True)
class RedisHosts:
    """The hosts of the Redis at `url`. `on_late` gets answers whose execution has ended.

    `checked` says whether an entry of the registry is that of its host. Raises ValueError for a malformed URL.
    """

    url: str
    now: Callable[[], float]
    genuine: Genuine
    on_late: Callable[[LateAnswer], None]
    checked: Callable[[str, Mapping[str, str]], bool]
    inboxes: dict[str, Inbox] = field(default_factory=dict)
    listening: dict[str, asyncio.Event] = field(default_factory=dict)
    _client: Redis = field(init=False)
    _sender: Redis = field(init=False)
    _channel: PubSub | None = None

    def __post_init__(self) -> None:
        arguments = connection_arguments(self.url)
        self._client = Redis(connection_pool=ConnectionPool(**arguments, retry=Retry(NoBackoff(), 1)))
        # A command that was sent twice would run twice. An idle connection is checked before it is used.
        once: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "health_check_interval": 1}
        self._sender = Redis(connection_pool=ConnectionPool(**arguments, **once))

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """Listen for answers within the context, and close all connections afterwards."""
        listening = asyncio.get_running_loop().create_task(self._listen())
        try:
            yield
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            for client in (self._client, self._sender):
                with suppress(*GONE):
                    await client.aclose(close_connection_pool=True)

    async def entries(self) -> list[HostEntry]:
        """All hosts, those that are gone as offline. Raises HostsAway."""
        async with _patience():
            ids = [id async for id in self._ids()]
            present = await self._read(ids)
            seen = await self._client.hgetall(SEEN)  # type: ignore[misc]
            await self._remember(present.values(), seen)
        gone = {entry.id: entry for entry in _seen(seen, self.now()) if entry.id not in present}
        return sorted([*present.values(), *gone.values()], key=lambda entry: entry.id)

    async def entry(self, host: str) -> HostEntry | None:
        """One host. Raises HostsAway."""
        async with _patience():
            present = await self._read([host])
            seen = await self._client.hmget(SEEN, [host])  # type: ignore[misc]
            await self._remember(present.values(), {})
        known = _seen({host.encode(): seen[0]}, self.now()) if seen[0] else []
        return present.get(host) or next(iter(known), None)

    async def _ids(self) -> AsyncIterator[str]:
        """The ids of all entries. What cannot be the id of a host is left out."""
        count = 0
        async for key in self._client.scan_iter(match=f"{REGISTRY_PREFIX}*", count=SCANNED):
            id = key.decode("utf-8", "replace").removeprefix(REGISTRY_PREFIX)
            if is_host_id(id) and (count := count + 1) <= MOST_HOSTS:
                yield id

    async def _read(self, ids: Iterable[str]) -> dict[str, HostEntry]:
        """The entries that can be read: a key of another type is none."""
        ids = list(dict.fromkeys(ids))
        pipeline = self._client.pipeline(transaction=False)
        for id in ids:
            pipeline.hgetall(registry_key(id))
        found = await pipeline.execute(raise_on_error=False) if ids else []
        hashes = {id: fields for id, fields in zip(ids, found, strict=True) if isinstance(fields, dict) and fields}
        texts = {id: _decoded(fields) for id, fields in hashes.items()}
        return {id: HostEntry.parse(id, fields) for id, fields in texts.items() if self.checked(id, fields)}

    async def _remember(self, entries: Iterable[HostEntry], seen: Mapping[bytes, bytes]) -> None:
        mapping = {entry.id: json.dumps(entry.fields()) for entry in entries}
        kept = {entry.id for entry in _seen(seen, self.now())}
        pipeline = self._client.pipeline(transaction=False)
        if mapping:
            pipeline.hset(SEEN, mapping=mapping)
        if old := [id for id in seen if id.decode("utf-8", "replace") not in kept | mapping.keys()]:
            pipeline.hdel(SEEN, *old)  # type: ignore[arg-type]
        await pipeline.execute()

    @asynccontextmanager
    async def answer_to(self, host: str, command: str) -> AsyncIterator[Inbox]:
        """Listen for the answer to a command within the context, before it is sent. Raises HostsAway."""
        inbox = self.inboxes[command] = Inbox(host, asyncio.get_running_loop().create_future())
        try:
            await self._listens_to(host)
            yield inbox
        finally:
            self._forget_late()
            if inbox.answer.done():
                del self.inboxes[command]
            else:
                inbox.late_until = self.now() + LATE_FOR

    async def send(self, host: str, message: Mapping[str, Any]) -> int:
        """Send a command; returns how many agents received it. Raises HostsAway."""
        async with _patience():
            return int(await self._sender.publish(command_channel(host), json.dumps(message)))

    async def check(self) -> bool:
        """Whether Redis answers."""
        with suppress(HostsAway):
            async with _patience():
                return bool(await self._client.ping())  # type: ignore[misc]
        return False

    async def _listens_to(self, host: str) -> None:
        ready = self.listening.setdefault(answer_channel(host), asyncio.Event())
        async with _patience():
            if not ready.is_set() and self._channel:
                await self._channel.subscribe(answer_channel(host))
            await ready.wait()

    async def _listen(self) -> None:
        """Receive answers, and connect again whenever Redis is back."""
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._client.pubsub() as self._channel:
                    await self._channel.subscribe("gatepost:hosts", *self.listening)
                    while True:
                        self._receive(await self._channel.get_message(timeout=POLL))
                        pause = FIRST_PAUSE
            except GONE:
                self._channel = None
                for ready in self.listening.values():
                    ready.clear()
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)

    def _receive(self, message: Mapping[str, Any] | None) -> None:
        match message:
            case {"type": "subscribe", "channel": bytes(channel)}:
                if ready := self.listening.get(channel.decode()):
                    ready.set()
            case {"type": "message", "channel": bytes(channel), "data": bytes(data)}:
                self._answered(channel.decode("utf-8", "replace").removeprefix(ANSWERS_PREFIX), data)
            case _:
                pass

    def _answered(self, host: str, data: bytes) -> None:
        body = read_object(data)
        answer = read_answer(body) if body else None
        inbox = self.inboxes.get(answer.id) if answer else None
        if not (body and answer and inbox) or inbox.host != host or not self.genuine(host, body):
            return
        if inbox.late_until:
            del self.inboxes[answer.id]
            self.on_late(LateAnswer(host, answer))
        elif not inbox.answer.done():
            inbox.answer.set_result(answer)

    def _forget_late(self) -> None:
        now = self.now()
        for id in [id for id, inbox in self.inboxes.items() if 0 < inbox.late_until < now]:
            del self.inboxes[id]


@asynccontextmanager
async def _patience() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(PATIENCE):
            yield
    except GONE as error:
        raise HostsAway() from error


def _decoded(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in fields.items()}


def _seen(seen: Mapping[bytes, bytes], now: float) -> list[HostEntry]:
    """The hosts that were seen, as offline. What cannot be read, or was long ago, is left out."""
    found = []
    for id, data in seen.items():
        fields, name = read_object(data), id.decode("utf-8", "replace")
        if fields and is_host_id(name):
            texts = {key: value for key, value in fields.items() if isinstance(value, str)}
            found.append(replace(HostEntry.parse(name, texts), online=False))
    return [entry for entry in found if now - entry.last_heartbeat < FORGOTTEN_AFTER]
