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

    async def set_secret(self, id: str, secret: str) -> bool: ...

    async def delete(self, id: str) -> bool: ...
