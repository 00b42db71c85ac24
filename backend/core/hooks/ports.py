"""What hooks need of storage. Stores raise StorageError."""

from collections.abc import Sequence
from typing import Protocol

from backend.core.hooks.model import Hook


class Hooks(Protocol):
    """All hooks. Shared by all servers."""

    async def add(self, hook: Hook, most: int) -> bool:
        """False if its owner has `most` already."""
        ...

    async def get(self, id: str) -> Hook | None: ...

    async def of(self, owner_id: str | None) -> Sequence[Hook]:
        """Those of an account, or all; the oldest first."""
        ...

    async def rotate(self, id: str, secret: str, old_until_ms: int) -> bool:
        """Replace its secret, which signs calls until then too; the one before that no longer does. False if there is none."""
        ...

    async def delete(self, id: str) -> bool: ...
