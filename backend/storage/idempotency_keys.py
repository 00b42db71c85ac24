"""Idempotency keys: the first request with a key starts the command, every other one gets the same execution."""

from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from backend.core.dataclasses import dataclass
from backend.core.execution.model import Status
from backend.core.ports import Claim
from backend.storage.database import LONG_PATIENCE, Database, changes
from backend.storage.tables import executions
from backend.storage.tables import idempotency_keys as table

# Milliseconds after which a key whose command never began can be claimed again. A slow database must not cause this:
# the first request, which still waits for it, would run the command a second time.
ORPHANED_AFTER = 60_000
KEPT = 24 * 3600 * 1000  # milliseconds that a key is stored


@dataclass(frozen=True, slots=True)
class SqlIdempotencyKeys:
    """The keys in the database. Every method raises StorageError."""

    database: Database
    now_ms: Callable[[], int]

    async def claim(self, principal: str, key: str, body_hash: bytes, execution: str) -> Claim:
        """Claim a key for `execution`, or return which execution has it."""
        row = {"principal": principal, "key": key, "body_hash": body_hash, "execution": execution}
        try:
            await self.database.write(changes(insert(table).values(**row, created_ms=self.now_ms())))
        except IntegrityError:
            return await self.database.write(partial(self._known, claimed=row))
        return Claim(execution, mine=True, same_body=True)

    def _known(self, connection: Connection, claimed: dict[str, Any]) -> Claim:
        mine = (table.c.principal == claimed["principal"]) & (table.c.key == claimed["key"])
        row = connection.execute(select(table).where(mine)).one_or_none()
        if row is None:  # it was released just now
            return Claim("", mine=False, same_body=True)
        same, now = bytes(row.body_hash) == claimed["body_hash"], self.now_ms()
        # A refused one is in the history too, and its key is about to be released.
        ran = (executions.c.id == row.execution) & (executions.c.status != str(Status.DENIED))
        begun = connection.execute(select(executions.c.id).where(ran)).first()
        if row.created_ms > now:  # the clock was set back, and the key would be waited for until it is as late again
            connection.execute(update(table).where(mine).values(created_ms=now))
        if same and not begun and now - row.created_ms > ORPHANED_AFTER:
            # Its server died before the command began: nothing ran, so it may begin now.
            taken = update(table).where(mine, table.c.execution == row.execution)
            values = {"execution": claimed["execution"], "created_ms": now}
            if connection.execute(taken.values(values)).rowcount == 1:
                return Claim(claimed["execution"], mine=True, same_body=True)
        return Claim(row.execution if begun else "", mine=False, same_body=same)

    async def release(self, principal: str, key: str, execution: str) -> None:
        """Release a key: nothing was started. A key that another execution has claimed meanwhile remains."""
        mine = (table.c.principal == principal) & (table.c.key == key) & (table.c.execution == execution)
        await self.database.write(changes(delete(table).where(mine)))

    async def forget(self) -> None:
        """Delete keys that are too old to be used again."""
        old = table.c.created_ms < self.now_ms() - KEPT
        await self.database.write(changes(delete(table).where(old)), LONG_PATIENCE)
