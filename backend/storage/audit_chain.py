"""Reads the audit: its events in order, its head, and whether it is intact.

An attacker may have put anything into the database, so what is read here is not assumed to be what was written.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, LargeBinary, cast, func, select

from backend.core.audit.chain import EMPTY, Anchor, ChainedEvent, Head, TrustedKey, Verification, Verifier
from backend.core.audit.events import LONGEST_BODY
from backend.core.dataclasses import dataclass
from backend.core.errors import StorageError
from backend.storage.database import LONG_PATIENCE, Database, first, rows
from backend.storage.tables import audit_events, audit_head

PAGE = 5000  # events read at a time
SHORT = 8192  # characters or bytes of an event that are read with the others; longer ones are read separately
LONGEST_BYTES = 4 * LONGEST_BODY + 1  # as UTF-8; one more than any event of Gatepost has
SIGNED_WITHIN = 5.0  # seconds that the next signature of a server that lives may take
LOOK_EVERY = 0.02  # seconds
BEFORE_ALL = -(2**63)  # a number that no event can have, not even one that an attacker inserted

Progress = Callable[[Sequence[ChainedEvent]], None]


class BrokenHeadError(StorageError):
    """The head of the audit cannot be read: it was changed."""


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head and its signature, and where the chain ends by now.

    The `mac` authenticates the end until the next signature; only the key verifies it. Empty while nothing follows the head.
    """

    head: Head
    signature: bytes
    end: Anchor
    mac: bytes = b""

    @property
    def latest(self) -> Head:
        """The head that is to be signed next."""
        return Head(self.head.first_seq, self.head.first_previous, self.end.seq, self.end.hash)

    def statement(self) -> bytes:
        """What the MAC covers: all else in the row."""
        return end_statement(self.end, self.head, self.signature)


def end_statement(end: Anchor, head: Head, signature: bytes) -> bytes:
    """What authenticates where the chain ends, behind a signed head."""
    return b" ".join((b"gatepost audit end", str(end).encode(), head.statement(), signature))


@dataclass(frozen=True, slots=True)
class Chain:
    """The audit in the database. Every method raises StorageError."""

    database: Database

    async def head(self) -> SignedHead | None:
        """The current head; raises BrokenHeadError if it is malformed."""
        return await self.database.read(read_head)

    async def signed_head(self) -> SignedHead | None:
        """The head, once it covers what is written by now. In vain if the server that wrote last has died."""
        found = first = await self.head()
        until = time.monotonic() + SIGNED_WITHIN
        while found and first and found.head.seq < first.end.seq and time.monotonic() < until:
            await asyncio.sleep(LOOK_EVERY)
            found = await self.head()
        return found

    async def links(self, after: int = BEFORE_ALL, last: int | None = None) -> AsyncIterator[ChainedEvent]:
        """The events numbered above `after`, up to `last`, in order."""
        async for page in self.pages(after, last):
            for link in page:
                yield link

    async def pages(self, after: int = BEFORE_ALL, last: int | None = None) -> AsyncIterator[list[ChainedEvent]]:
        """The same events in pages. However long the events are, they take little memory."""
        while True:
            rows, page = await self._rows(after, last), []
            for seq, body, hash in rows:
                page.append(_link(seq, body, hash))
                if body and len(body) > SHORT:
                    page[-1] = await self._long(page[-1])
                    yield page
                    page = []
            if page:
                yield page
            if len(rows) < PAGE or type(rows[-1][0]) is not int:
                return
            after = rows[-1][0]

    async def _rows(self, after: int, last: int | None) -> Sequence[Any]:
        raw, events = self.database.sqlite, audit_events.c
        body = func.substr(_bytes(events.body, raw), 1, SHORT + 1)
        query = select(events.seq, body, _bytes(events.hash, raw)).order_by(events.seq).limit(PAGE)
        query = query.where(events.seq > after)
        if last is not None:
            query = query.where(events.seq <= last)
        return await self.database.read(rows(query), LONG_PATIENCE)

    async def _long(self, link: ChainedEvent) -> ChainedEvent:
        """The event with its complete text. No event of Gatepost is longer than what is read."""
        body = func.substr(_bytes(audit_events.c.body, self.database.sqlite), 1, LONGEST_BYTES)
        found = await self.database.read(first(select(body).where(audit_events.c.seq == link.seq)))
        return _link(link.seq, found[0] if found else None, link.hash)

    async def verify(
        self,
        trust: TrustedKey,
        anchors: tuple[Anchor, ...] = (),
        progress: Progress = lambda _: None,
    ) -> Verification:
        """Go through the whole chain.

        `progress` is called with each part of the chain that was verified. Events may be written meanwhile: those after
        the head that was read first are not verified. If events are pruned meanwhile, verification starts again.
        """
        while True:
            try:
                found = await self.head()
            except BrokenHeadError:
                return Verification(EMPTY, 0, "the head of the audit cannot be read: it was changed")
            if found is None:
                return Verification(EMPTY, 0, "the audit has no head")
            verdict = await self.walk(found, trust, anchors, progress)
            if not (verdict.problem and await self.was_pruned(found.head)):
                return verdict

    async def walk(
        self, found: SignedHead, trust: TrustedKey, anchors: tuple[Anchor, ...], progress: Progress
    ) -> Verification:
        """Verify the chain once, up to a head that was read; in a thread, so that a server stays responsive."""
        verifier = Verifier(found.head, trust, anchors, end=found.end)
        async for page in self.pages():
            if page and page[-1].seq > found.end.seq and await self._has_moved(found.end):
                page = [link for link in page if link.seq <= found.end.seq]
            if not page or not await asyncio.to_thread(verifier.check_all, page):
                break
            progress(page)
        return verifier.finish(found.signature)

    async def _has_moved(self, end: Anchor) -> bool:
        """Whether events were written since the end was read; otherwise what follows it was inserted."""
        now = await self.head()
        return now is not None and now.end.seq > end.seq

    async def was_pruned(self, head: Head) -> bool:
        """Whether the beginning was pruned since `head` was read."""
        try:
            now = await self.head()
        except BrokenHeadError:
            return False
        return now is not None and now.head.first_seq > head.first_seq

    async def find(self, seq: int) -> ChainedEvent | None:
        """One event."""
        return next(iter([link async for link in self.links(seq - 1, seq)]), None)

    async def lost(self, anchor: Anchor) -> str:
        """Why a position that was stored outside the database is not in the chain; empty if it is, or was pruned."""
        found = await self.head()
        if found is None or found.end.seq < anchor.seq:
            return f"The audit ends before event {anchor.seq}, which existed."
        if anchor.seq < found.head.first_seq:
            return ""
        link = await self.find(anchor.seq)
        return "" if link and link.hash == anchor.hash else f"Event {anchor.seq} is not the one that was anchored."


def read_head(connection: Connection, *, lock: bool = False) -> SignedHead | None:
    """The head, with `lock` until the end of the transaction (SQLite has to hold its lock already)."""
    raw = connection.dialect.name == "sqlite"
    table = audit_head.c
    blobs = [_bytes(column, raw) for column in (table.first_previous, table.hash, table.signature)]
    ends = [table.end_seq, _bytes(table.end_hash, raw), _bytes(table.end_mac, raw)]
    query = select(table.id, table.first_seq, table.seq, *blobs, *ends)
    rows = connection.execute(query.with_for_update() if lock else query).all()
    if not rows:
        return None
    id, first_seq, seq, first_previous, hash, signature, *end = rows[0]
    whole = all(type(number) is int for number in (id, first_seq, seq)) and all(map(_is_bytes, rows[0][3:6]))
    if len(rows) > 1 or not whole or id != 1:
        raise BrokenHeadError()
    return _signed_head(Head(first_seq, first_previous, seq, hash), signature, *end)


def _signed_head(head: Head, signature: bytes, end_seq: Any, end_hash: Any, end_mac: Any) -> SignedHead:
    if (end_seq, end_hash, end_mac) == (None, None, None):
        return SignedHead(head, signature, head.end)
    whole = type(end_seq) is int and _is_bytes(end_hash) and _is_bytes(end_mac)
    if not whole or end_seq <= head.seq or not end_mac:
        raise BrokenHeadError()
    return SignedHead(head, signature, Anchor(end_seq, end_hash), end_mac)


def _bytes(column: ColumnElement[Any], raw: bool) -> ColumnElement[Any]:
    """The column as it is in the file: SQLite stores whatever was inserted, even text that is not UTF-8."""
    return cast(column, LargeBinary) if raw else column


def _is_bytes(value: object) -> bool:
    return isinstance(value, bytes)


def _link(seq: Any, body: Any, hash: Any) -> ChainedEvent:
    """The event of a row. A missing number, text or hash is replaced by one that no valid event has."""
    return ChainedEvent(seq if type(seq) is int else -1, _text(body or b""), hash or b"")


def _text(body: bytes | str) -> str:
    """The text of an event; bytes that are not UTF-8 become surrogates, which no hash of Gatepost covers."""
    return body if isinstance(body, str) else body.decode("utf-8", "surrogateescape")
