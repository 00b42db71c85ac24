"""Reads the audit: its events in order, its head, and whether all of it is as it was written.

Whoever changed the database may have left anything in it, so what is read here is not taken to be what was written.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, LargeBinary, cast, select

from backend.core.audit import EMPTY, Anchor, Head, Link, Trust, Verdict, Verifier
from backend.core.errors import StorageError
from backend.storage.database import Database
from backend.storage.tables import audit_events, audit_head

PAGE = 5000  # events read at a time
BEFORE_ALL = -(2**63)  # a number that no event can have, not even one that somebody put there

Progress = Callable[[int], None]


class BrokenHeadError(StorageError):
    """The head of the audit cannot be read: it was changed."""


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head and its signature."""

    head: Head
    signature: bytes


@dataclass(frozen=True, slots=True)
class Chain:
    """The audit in the database. Every method raises StorageError."""

    database: Database

    async def head(self) -> SignedHead | None:
        """The head as it stands; raises BrokenHeadError for what is none."""
        async with self.database.begin() as connection:
            return await connection.run_sync(read_head)

    async def links(self, after: int = BEFORE_ALL, last: int | None = None) -> AsyncIterator[Link]:
        """The events numbered above `after`, up to `last`, in order."""
        while True:
            links = await self._page(after, last)
            for link in links:
                yield link
            if len(links) < PAGE:
                return
            after = links[-1].seq

    async def _page(self, after: int, last: int | None) -> list[Link]:
        raw = self.database.sqlite
        columns = (audit_events.c.seq, _bytes(audit_events.c.body, raw), _bytes(audit_events.c.hash, raw))
        query = select(*columns).where(audit_events.c.seq > after).order_by(audit_events.c.seq).limit(PAGE)
        if last is not None:
            query = query.where(audit_events.c.seq <= last)
        async with self.database.begin() as connection:
            rows = (await connection.execute(query)).all()
        return [Link(seq, _text(body), hash) for seq, body, hash in rows]

    async def verify(
        self,
        trust: Trust,
        anchors: tuple[Anchor, ...] = (),
        progress: Progress = lambda _: None,
    ) -> Verdict:
        """Go through the whole chain. `progress` is told how many events are done, after each page.

        Events may be written meanwhile: what comes after the head that was read first is not looked at. When they are
        pruned meanwhile, it begins again.
        """
        while True:
            try:
                found = await self.head()
            except BrokenHeadError:
                return Verdict(EMPTY, 0, "the head of the audit cannot be read: it was changed")
            if found is None:
                return Verdict(EMPTY, 0, "the audit has no head")
            verdict = await self._walk(found, trust, anchors, progress)
            if not (verdict.problem and await self._was_pruned(found.head)):
                return verdict

    async def _walk(self, found: SignedHead, trust: Trust, anchors: tuple[Anchor, ...], progress: Progress) -> Verdict:
        verifier = Verifier(found.head, trust, anchors)
        async for link in self.links():
            if link.seq > found.head.seq and await self._has_moved(found.head):
                break
            if not verifier.take(link):
                break
            if verifier.taken % PAGE == 0:
                progress(verifier.taken)
        return verifier.finish(found.signature)

    async def _has_moved(self, head: Head) -> bool:
        """Whether events were written since `head` was read; otherwise what stands behind it was put there."""
        now = await self.head()
        return now is not None and now.head.seq > head.seq

    async def _was_pruned(self, head: Head) -> bool:
        try:
            now = await self.head()
        except BrokenHeadError:
            return False
        return now is not None and now.head.first_seq > head.first_seq

    async def find(self, seq: int) -> Link | None:
        """One event."""
        return next(iter([link async for link in self.links(seq - 1, seq)]), None)


def read_head(connection: Connection, *, lock: bool = False) -> SignedHead | None:
    """The head, with `lock` until the end of the transaction (SQLite has to hold its lock already)."""
    raw = connection.dialect.name == "sqlite"
    table = audit_head.c
    blobs = [_bytes(column, raw) for column in (table.first_previous, table.hash, table.signature)]
    query = select(table.id, table.first_seq, table.seq, *blobs)
    rows = connection.execute(query.with_for_update() if lock else query).all()
    if not rows:
        return None
    id, first_seq, seq, first_previous, hash, signature = rows[0]
    if len(rows) > 1 or not all(type(number) is int for number in (id, first_seq, seq)) or id != 1:
        raise BrokenHeadError()
    return SignedHead(Head(first_seq, first_previous, seq, hash), signature)


def _bytes(column: ColumnElement[Any], raw: bool) -> ColumnElement[Any]:
    """The column as it lies in the file: SQLite keeps whatever was put there, text that is no UTF-8 too."""
    return cast(column, LargeBinary) if raw else column


def _text(body: bytes | str) -> str:
    """The text of an event; bytes that are none become surrogates, which no hash of ours covers."""
    return body if isinstance(body, str) else body.decode("utf-8", "surrogateescape")
