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
from dataclasses import field
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from backend.bus.exchange import Exchange
from backend.bus.link import FIRST_PAUSE, GONE, LONGEST_PAUSE, PATIENCE, connection_arguments
from backend.core.dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True)
class SignedEntry:
    """An entry as it was read, whose last state is in SEEN. Another entry has another signature."""

    fields: Mapping[str, str]
    entry: HostEntry


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
    known: dict[str, HostEntry] = field(default_factory=dict)
    signed: dict[str, SignedEntry] = field(default_factory=dict)
    _client: Redis = field(init=False)
    _queries: Exchange = field(init=False)
    _sender: Redis = field(init=False)
    _channel: PubSub | None = None

    def __post_init__(self) -> None:
        arguments = connection_arguments(self.url)
        self._client = Redis(connection_pool=ConnectionPool(**arguments, retry=Retry(NoBackoff(), 1)))
        self._queries = Exchange(self._client, PATIENCE)
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
            await self._queries.close()
            with suppress(*GONE):
                await self._sender.aclose(close_connection_pool=True)

    async def entries(self) -> list[HostEntry]:
        """All hosts, those that are gone as offline. Raises HostsAway."""
        async with _patience():
            ids = [id async for id in self._ids()]
            present = await self._read(ids)
            [seen] = await self._queries.send(("HGETALL", SEEN))
            await self._remember(present, seen)
            await self._forget(seen, present)
        found = {**self._gone(seen), **present}
        return sorted(found.values(), key=lambda entry: entry.id)

    async def entry(self, host: str) -> HostEntry | None:
        """One host. Raises HostsAway."""
        async with _patience():
            return await self._unchanged(host) or await self._queried(host)

    async def _unchanged(self, host: str) -> HostEntry | None:
        """The entry that was read last, if it is still the present one: a fraction of reading it again."""
        if not (last := self.signed.get(host)):
            return None
        signature = await _of_a_hash(self._queries.put(("HGET", registry_key(host), "signature")))
        same = signature == last.fields["signature"].encode() and self.checked(host, last.fields)
        return last.entry if same else None

    async def _queried(self, host: str) -> HostEntry | None:
        registered = self._queries.put(("HGETALL", registry_key(host)))  # both in one exchange
        [data] = await self._queries.send(("HGET", SEEN, host))
        fields = await _of_a_hash(registered)
        seen = {host.encode(): data} if data else {}
        present = self._checked({host: fields})
        await self._remember(present, seen)
        self.signed.pop(host, None)
        if (entry := present.get(host)) and (texts := _decoded(fields)).get("signature"):
            self.signed[host] = SignedEntry(texts, entry)
        return entry or self._gone(seen).get(host)

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
        return self._checked(dict(zip(ids, found, strict=True)))

    def _checked(self, found: Mapping[str, Any]) -> dict[str, HostEntry]:
        """The entries in hashes, of those that are hashes and genuine."""
        hashes = {id: fields for id, fields in found.items() if isinstance(fields, dict) and fields}
        texts = {id: _decoded(fields) for id, fields in hashes.items()}
        return {id: HostEntry.parse(id, fields) for id, fields in texts.items() if self.checked(id, fields)}

    async def _remember(self, present: Mapping[str, HostEntry], seen: Mapping[bytes, bytes]) -> None:
        """Have the last entry of each host in Redis, and here for the case that Redis loses its data."""
        self.known.update(present)
        texts = {id: json.dumps(entry.fields()).encode() for id, entry in present.items()}
        if changed := [word for id, text in texts.items() if seen.get(id.encode()) != text for word in (id, text)]:
            await self._queries.send(("HSET", SEEN, *changed))

    async def _forget(self, seen: Mapping[bytes, bytes], present: Mapping[str, HostEntry]) -> None:
        """Delete what was seen long ago."""
        kept = self._gone(seen).keys() | present.keys()
        self.known = {id: entry for id, entry in self.known.items() if id in kept}
        if old := [id for id in seen if id.decode("utf-8", "replace") not in kept]:
            await self._queries.send(("HDEL", SEEN, *old))

    def _gone(self, seen: Mapping[bytes, bytes]) -> dict[str, HostEntry]:
        """The hosts that were seen, by Redis or by this server. What cannot be read, or was long ago, is left out."""
        found = {**self.known, **_seen(seen)}
        recent = {id: entry for id, entry in found.items() if entry.was_seen_within(FORGOTTEN_AFTER, self.now())}
        return {id: replace(entry, gone=True) for id, entry in recent.items()}

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


async def _of_a_hash(answer: "asyncio.Future[list[Any]]") -> Any:
    """The fields of a hash; None where the key has another type."""
    try:
        [fields] = await answer
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return None
    return fields


def _decoded(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in fields.items()}


def _seen(seen: Mapping[bytes, bytes]) -> dict[str, HostEntry]:
    found = {}
    for id, data in seen.items():
        fields, name = read_object(data), id.decode("utf-8", "replace")
        if fields and is_host_id(name):
            texts = {key: value for key, value in fields.items() if isinstance(value, str)}
            found[name] = HostEntry.parse(name, texts)
    return found
