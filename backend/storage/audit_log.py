"""The audit in the database: events that are not about commands, key rotation, pruning, the anchor."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

from sqlalchemy import Connection, delete

from backend.core.audit.chain import ChainedEvent, Head, Succession, TrustedKey, extend
from backend.core.audit.events import Event, Kind
from backend.core.audit.execution_events import Draft
from backend.core.dataclasses import dataclass
from backend.core.errors import StorageError
from backend.storage.audit_chain import Chain, SignedHead
from backend.storage.audit_head import LedgerContext
from backend.storage.commit_queue import CommitQueue, insert_events
from backend.storage.database import LONG_PATIENCE
from backend.storage.keys import SigningKey
from backend.storage.refusal_filter import ITSELF
from backend.storage.tables import audit_events


@dataclass(frozen=True, slots=True)
class SqlAuditLog:
    """The audit of this server. Every method raises StorageError."""

    queue: CommitQueue

    @property
    def _context(self) -> LedgerContext:
        return self.queue.context

    @property
    def _chain(self) -> Chain:
        return Chain(self.queue.database)

    async def prepare(self) -> None:
        """Make the head of a new chain, and check that the anchored end of an existing one is still there.

        If it is missing, an event says so. Raises StorageError, also for a head that was changed.
        """
        await self.queue.prepare()
        await asyncio.to_thread(
            self._context.keys.publish
        )  # only now: a key that did not sign the audit is not its key
        checkpoint = self.queue.checkpoint
        anchor = await checkpoint.read() if checkpoint else None
        if anchor and (lost := await self._chain.lost(anchor)):
            await self.record(Kind.CHAIN_BROKEN, ITSELF, "", {"noted": str(anchor), "reason": lost})

    async def record(self, kind: Kind, actor: str, address: str, fields: Mapping[str, Any]) -> None:
        """Write an event that is not about a command: a login, a rejected request. Returns once it is durable."""
        await self.queue.write((self._context.event(Draft(kind, fields), actor, address),))

    async def rotate_key(self, successor: SigningKey, actor: str) -> None:
        """Replace the key that signs the audit; an event records this with a signature of the old key."""
        head = await self.queue.database.write(partial(self._hand_over, successor=successor, actor=actor))
        self.queue.signed(head.end)

    def _hand_over(self, connection: Connection, successor: SigningKey, actor: str) -> SignedHead:
        head, key = self.queue.head.lock(connection).latest, self._context.keys.current
        change = Succession(head.end, key.public, successor.public)
        event = self._event(Kind.KEY_ROTATED, actor, change.fields(key.sign(change.statement())))
        latest, links = extend(head, [event])
        after = SignedHead(latest, successor.sign(latest.statement()), latest.end)
        self.queue.head.replace(connection, after)
        insert_events(connection, links)
        return after

    async def prune(self, before: str) -> int:
        """Delete the events before a time (ISO 8601, UTC) from the start of the chain; returns how many.

        The complete chain is verified first: no event is deleted because its time was forged, and evidence of tampering
        is not deleted with old events.
        """
        async for link in self._chain.links():
            if _time(link, before) >= before:
                return 0
            break
        last = await self._last_before(before)
        if last is None:
            return 0
        return await self.queue.database.write(partial(self._cut, last=last, before=before), LONG_PATIENCE)

    async def _last_before(self, before: str) -> ChainedEvent | None:
        """The last of the old events at the start of the chain, which must be intact."""
        chain, old, known = self._chain, list[ChainedEvent](), self.queue.head.known

        def see(page: Sequence[ChainedEvent]) -> None:
            if not old or old[-1].seq + 1 == page[0].seq:
                old.extend(list(takewhile(lambda link: _time(link, before) < before, page))[-1:])

        found = await chain.head()
        if found is None:
            raise StorageError("The audit has no head.")
        trust = TrustedKey(self._context.keys.current.public, self._context.check)
        verdict = await chain.walk(found, trust, (known.end,) if known else (), see)
        if verdict.problem and await chain.was_pruned(found.head):
            return None  # another process does the same
        if verdict.problem:
            raise StorageError(f"Old events were not deleted, because the audit is not intact: {verdict.problem}.")
        return old[-1] if old else None

    def _cut(self, connection: Connection, last: ChainedEvent, before: str) -> int:
        """Let the chain begin after `last`, and append the event that says so."""
        head = self.queue.head.lock(connection).latest
        if not head.first_seq <= last.seq <= head.seq:
            return 0
        gone = last.seq - head.first_seq + 1
        fields = {"first": head.first_seq, "last": last.seq, "last_hash": last.hash.hex(), "before": before}
        event = self._event(Kind.PRUNED, ITSELF, fields)
        after, links = extend(Head(last.seq + 1, last.hash, head.seq, head.hash), [event])
        self.queue.head.replace(connection, self._context.signed(after))
        connection.execute(delete(audit_events).where(audit_events.c.seq <= last.seq))
        insert_events(connection, links)
        return gone

    def _event(self, kind: Kind, actor: str, fields: Mapping[str, Any]) -> Event:
        return self._context.event(Draft(kind, fields), actor, "")


def _time(link: ChainedEvent, otherwise: str) -> str:
    return str(link.content.get("time", otherwise))
