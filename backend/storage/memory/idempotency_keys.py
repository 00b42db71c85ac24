"""Idempotency keys in memory."""

from collections.abc import Callable
from dataclasses import field

from backend.core.dataclasses import dataclass
from backend.core.execution.model import Status
from backend.core.ports import Claim
from backend.storage.idempotency_keys import KEPT, ORPHANED_AFTER
from backend.storage.memory.executions import MemoryExecutions


@dataclass(slots=True)
class _Key:
    body_hash: bytes
    execution: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class MemoryIdempotencyKeys:
    """The keys of all servers that share `executions`; see `IdempotencyKeys`."""

    executions: MemoryExecutions
    now_ms: Callable[[], int]
    _keys: dict[tuple[str, str], _Key] = field(default_factory=dict)

    async def claim(self, principal: str, key: str, body_hash: bytes, execution: str) -> Claim:
        """Claim a key for `execution`, or return which execution has it."""
        found = self._keys.get((principal, key))
        if found:
            found.created_ms = min(found.created_ms, self.now_ms())  # as in the database
        begun = found is not None and self._has_begun(found.execution)
        if found is None or (found.body_hash == body_hash and not begun and self._age(found) > ORPHANED_AFTER):
            self._keys[principal, key] = _Key(body_hash, execution, self.now_ms())
            return Claim(execution, mine=True, same_body=True)
        return Claim(found.execution if begun else "", mine=False, same_body=found.body_hash == body_hash)

    def _has_begun(self, execution: str) -> bool:
        row = self.executions.rows.get(execution)
        return row is not None and row.status is not Status.DENIED

    def _age(self, key: _Key) -> int:
        return self.now_ms() - key.created_ms

    async def release(self, principal: str, key: str, execution: str) -> None:
        """Release a key: nothing was started. A key that another execution has claimed meanwhile remains."""
        found = self._keys.get((principal, key))
        if found and found.execution == execution:
            del self._keys[principal, key]

    async def forget(self) -> None:
        """Delete keys that are too old to be used again."""
        for place, key in list(self._keys.items()):
            if self._age(key) > KEPT:
                del self._keys[place]
