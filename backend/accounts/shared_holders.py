"""The holders of tokens, asked for once for all open connections that present the same token."""

import asyncio
from collections.abc import Callable
from dataclasses import field

from backend.core.dataclasses import dataclass
from backend.core.identity import ApiToken, User
from backend.core.ports import Identities

FRESH = 1.0  # seconds for which an answer is shared


@dataclass(slots=True)
class SharedHolders:
    """Five hundred connections of an account ask the database as often as one. `now` is in seconds.

    For connections that are open: one that opens is judged by what is in the database at that moment.
    """

    identities: Identities
    now: Callable[[], float]
    _asked: dict[tuple[str, str], tuple[float, asyncio.Future[User | None]]] = field(default_factory=dict)

    async def holder(self, user_id: str, token_id: str) -> User | None:
        """The answer to a question of the last second. Raises StorageError."""
        key, now = (user_id, token_id), self.now()
        self._asked = {each: asked for each, asked in self._asked.items() if asked[0] + FRESH > now}
        if key not in self._asked:
            answer = asyncio.ensure_future(self.identities.holder(user_id, token_id))
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # the caller may be gone
            self._asked[key] = now, answer
        return await asyncio.shield(self._asked[key][1])

    async def token_by_secret(self, secret_hash: bytes) -> tuple[ApiToken, User] | None:
        """The API token with this secret; never shared."""
        return await self.identities.token_by_secret(secret_hash)
