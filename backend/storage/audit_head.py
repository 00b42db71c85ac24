"""The signed head of the audit, as one server writes it.

Several processes share one chain: the head moves only from where it was read, and a process that comes second locks it
and reads it again. A server never appends to a head that its key did not sign; if another process rotated the key, and
this data folder has the new one, the server uses that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from backend.core.audit.chain import EMPTY, Head
from backend.core.audit.events import Event
from backend.core.audit.execution_events import Draft
from backend.core.errors import StorageError
from backend.storage.audit_chain import SignedHead, read_head
from backend.storage.bare_connection import BareConnection
from backend.storage.keys import AuditKeys
from backend.storage.tables import audit_events, audit_head

STUCK = "The head of the audit does not move, although no other process moved it."

MOVE_HEAD = (
    update(audit_head)
    .where(audit_head.c.id == 1, audit_head.c.seq == bindparam("old_seq"), audit_head.c.hash == bindparam("old_hash"))
    .where(audit_head.c.first_seq == bindparam("old_first"))  # another process may have pruned the beginning
    .values(seq=bindparam("new_seq"), hash=bindparam("new_hash"), signature=bindparam("new_signature"))
)
# Takes SQLite's write lock, which a transaction that has begun by reading would not get.
TOUCH_HEAD = update(audit_head).where(audit_head.c.id == 1).values(id=1)


@dataclass(frozen=True, slots=True)
class LedgerContext:
    """Time, ids and keys, passed in: `now_ms` in Unix milliseconds, `utc` as ISO 8601, `check` as in `Trust`."""

    now_ms: Callable[[], int]
    utc: Callable[[], str]
    new_id: Callable[[], str]
    keys: AuditKeys
    check: Callable[[bytes, bytes, bytes], bool]

    def sign(self, head: Head) -> bytes:
        """The signature of a head."""
        return self.keys.current.sign(head.statement())

    def event(self, draft: Draft, actor: str, address: str) -> Event:
        """An event that happens now."""
        return Event(self.new_id(), self.utc(), draft.kind, actor, address, draft.fields)


@dataclass(slots=True)
class AuditHead:
    """Moves the head, in transactions of the caller. `known` is the head that this process wrote last."""

    context: LedgerContext
    known: Head | None = None

    def make(self, connection: Connection) -> None:
        """Make the head of a new chain. Raises StorageError for an existing one that was changed."""
        found = read_head(connection)
        if found is None:
            connection.execute(insert(audit_head).values(id=1, **self._row(EMPTY, self.context.sign(EMPTY))))
        else:
            self._trusted(found)

    def move(self, connection: Connection | BareConnection, old: Head, new: Head) -> bool:
        """Move the head; False if another process has moved it from `old`."""
        values = {
            "old_first": old.first_seq,
            "old_seq": old.seq,
            "old_hash": old.hash,
            "new_seq": new.seq,
            "new_hash": new.hash,
            "new_signature": self.context.sign(new),
        }
        return connection.execute(MOVE_HEAD, values).rowcount == 1

    def lock(self, connection: Connection) -> Head:
        """The head as another process left it, which cannot move until the end of the transaction.

        Raises StorageError for a head or a chain that was changed.
        """
        if connection.dialect.name == "sqlite":
            connection.execute(TOUCH_HEAD)
        found = read_head(connection, lock=True)
        if found is None:
            raise StorageError("The audit has no head; the database was not prepared.")
        head = self._trusted(found)
        self._check_last(connection, head)
        return head

    def replace(self, connection: Connection, head: Head, signature: bytes | None = None) -> None:
        """Replace the locked head, with another signature if one is given."""
        row = self._row(head, signature or self.context.sign(head))
        if connection.execute(update(audit_head).values(row)).rowcount != 1:
            raise StorageError(STUCK)

    def _check_last(self, connection: Connection, head: Head) -> None:
        """Refuse a chain without the last event known here; another process may unknowingly have appended to it."""
        known = self.known.end if self.known else EMPTY.end
        if head.first_seq <= known.seq:
            found = connection.execute(select(audit_events.c.hash).where(audit_events.c.seq == known.seq)).scalar()
            if found != known.hash:
                raise StorageError(f"The audit has lost an event: event {known.seq} is not the one that was there.")

    def _trusted(self, found: SignedHead) -> Head:
        """The head, if this server's key signed it (its signatures are deterministic) and it did not go back."""
        statement, signature, keys = found.head.statement(), found.signature, self.context.keys
        if self.context.sign(found.head) != signature and not keys.follow(statement, signature):
            raise StorageError("The head of the audit is not signed with this server's key.")
        if self.known and found.head.seq < self.known.seq:
            raise StorageError(f"The audit has lost its end: event {self.known.seq} was there.")
        return found.head

    def _row(self, head: Head, signature: bytes) -> dict[str, Any]:
        return {
            "first_seq": head.first_seq,
            "first_previous": head.first_previous,
            "seq": head.seq,
            "hash": head.hash,
            "signature": signature,
        }
