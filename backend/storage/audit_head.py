"""The signed head of the audit, as one server writes it.

A transaction records where the chain ends with a MAC, which only the key can verify; it is signed soon afterwards, together
with what was written meanwhile. Several processes share one chain: the head moves only from where it was read, and a process
that comes second locks it and reads it again. A server never appends to an end that its key did not authenticate; if another
process rotated the key, and this data folder has the new one, the server uses that.
"""

from collections.abc import Callable
from functools import partial
from hmac import compare_digest
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from backend.core.audit.chain import EMPTY, Anchor, Head
from backend.core.audit.events import Event
from backend.core.audit.execution_events import Draft
from backend.core.dataclasses import dataclass
from backend.core.errors import StorageError
from backend.storage.audit_chain import SignedHead, end_statement, read_head
from backend.storage.bare_connection import BareConnection
from backend.storage.keys import AuditKeys, SigningKey
from backend.storage.tables import audit_events, audit_head

STUCK = "The head of the audit does not move, although no other process moved it."

COLUMNS = audit_head.c
NAMES = ("seq", "hash", "signature", "end_seq", "end_hash", "end_mac")
NEW_NAMES = tuple(f"new_{name}" for name in NAMES)
MOVE_HEAD = (
    update(audit_head)
    .where(COLUMNS.id == 1, COLUMNS.seq == bindparam("old_seq"), COLUMNS.hash == bindparam("old_hash"))
    .where(func.coalesce(COLUMNS.end_seq, COLUMNS.seq) == bindparam("old_end_seq"))
    .where(func.coalesce(COLUMNS.end_hash, COLUMNS.hash) == bindparam("old_end_hash"))
    .where(COLUMNS.first_seq == bindparam("old_first"))  # another process may have pruned the beginning
    .values({name: bindparam(new) for name, new in zip(NAMES, NEW_NAMES, strict=True)})
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

    def signed(self, head: Head) -> SignedHead:
        """A head with its signature, which nothing follows."""
        return SignedHead(head, self.sign(head), head.end)

    def continued(self, before: SignedHead, end: Anchor) -> SignedHead:
        """The head that was signed last, and another end with its MAC."""
        if end.seq == before.end.seq:
            return before
        head, signature = before.head, before.signature
        return SignedHead(head, signature, end, self.keys.current.mac(end_statement(end, head, signature)))

    def event(self, draft: Draft, actor: str, address: str) -> Event:
        """An event that happens now."""
        return Event(self.new_id(), self.utc(), draft.kind, actor, address, draft.fields)


@dataclass(slots=True)
class AuditHead:
    """Moves the head, in transactions of the caller. `known` is the head that this process wrote last."""

    context: LedgerContext
    known: SignedHead | None = None

    def make(self, connection: Connection) -> SignedHead:
        """The head, which is made for a new chain. Raises StorageError for an existing one that was changed."""
        found = read_head(connection)
        if found is None:
            found = self.context.signed(EMPTY)
            connection.execute(insert(audit_head).values(id=1, **_row(found)))
        return self._trusted(found)

    def move(self, connection: Connection | BareConnection, old: SignedHead, new: SignedHead) -> bool:
        """Move the head; False if another process has moved it from `old`."""
        values = {
            "old_first": old.head.first_seq,
            "old_seq": old.head.seq,
            "old_hash": old.head.hash,
            "old_end_seq": old.end.seq,
            "old_end_hash": old.end.hash,
        }
        row = _row(new)
        values |= zip(NEW_NAMES, map(row.__getitem__, NAMES), strict=True)
        return connection.execute(MOVE_HEAD, values).rowcount == 1

    def lock(self, connection: Connection) -> SignedHead:
        """The head as another process left it, which cannot move until the end of the transaction.

        Raises StorageError for a head or a chain that was changed.
        """
        if connection.dialect.name == "sqlite":
            connection.execute(TOUCH_HEAD)
        found = read_head(connection, lock=True)
        if found is None:
            raise StorageError("The audit has no head; the database was not prepared.")
        head = self._trusted(found)
        self._check_last(connection, head.latest)
        return head

    def replace(self, connection: Connection, head: SignedHead) -> None:
        """Replace the locked head."""
        if connection.execute(update(audit_head).values(_row(head))).rowcount != 1:
            raise StorageError(STUCK)

    def _check_last(self, connection: Connection, head: Head) -> None:
        """Refuse a chain without the last event known here; another process may unknowingly have appended to it."""
        known = self.known.end if self.known else EMPTY.end
        if head.first_seq <= known.seq:
            found = connection.execute(select(audit_events.c.hash).where(audit_events.c.seq == known.seq)).scalar()
            if found != known.hash:
                raise StorageError(f"The audit has lost an event: event {known.seq} is not the one that was there.")

    def _trusted(self, found: SignedHead) -> SignedHead:
        """The head, if this server's key authenticated its end and it did not go back."""
        keys, authenticated = self.context.keys, partial(_authenticated, found)
        if not authenticated(keys.current) and not keys.follow(authenticated):
            raise StorageError("The head of the audit is not signed with this server's key.")
        if self.known and found.end.seq < self.known.end.seq:
            raise StorageError(f"The audit has lost its end: event {self.known.end.seq} was there.")
        return found


def _authenticated(found: SignedHead, key: SigningKey) -> bool:
    """Whether a key made the MAC, which covers the signature, or else the signature, which is deterministic."""
    if found.mac:
        return compare_digest(found.mac, key.mac(found.statement()))
    return found.signature == key.sign(found.head.statement())


def _row(found: SignedHead) -> dict[str, Any]:
    head, follows = found.head, found.mac != b""
    return {
        "first_seq": head.first_seq,
        "first_previous": head.first_previous,
        "seq": head.seq,
        "hash": head.hash,
        "signature": found.signature,
        "end_seq": found.end.seq if follows else None,
        "end_hash": found.end.hash if follows else None,
        "end_mac": found.mac if follows else None,
    }
