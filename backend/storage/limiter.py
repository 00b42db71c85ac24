"""The counters behind the limits: in the memory of this process, or in Redis, shared by several.

The shared ones are those of `limits.aio`. Its own memory store is not used: every hit scans all keys, with a thread for
each, so its cost grows with the number of visitors.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import Storage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import StorageError as LimitsStorageError
from limits.storage import MemoryStorage as BlockingMemoryStorage
from limits.storage import storage_from_string

from backend.core.errors import StorageError
from backend.core.limits import Budget, Rate, RateLimiter, Windows

REDIS_PATIENCE = 2.0  # seconds after which a Redis that does not answer is considered unavailable


class MovingWindow:
    """Counts against one rate in a moving window, in the memory of this process; the same object serves every front."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.windows = Windows(clock)

    async def hit(self, key: str) -> float:
        """Count one for `key`; returns 0.0 if it is admitted, else the seconds until the window has room."""
        if self.windows.acquire(key, self.rate.count, self.rate.seconds):
            return 0.0
        return self._until_room(key)

    async def wait(self, key: str) -> float:
        """What `hit` would return, without counting."""
        _, count = self.windows.state(key, self.rate.seconds)
        return 0.0 if count < self.rate.count else self._until_room(key)

    async def left(self, key: str) -> Budget:
        """What `key` has left, without counting."""
        _, count = self.windows.state(key, self.rate.seconds)
        return Budget(self.rate, self.rate.count - count, self._until_room(key) if count else 0.0)

    def _until_room(self, key: str) -> float:
        age, _ = self.windows.state(key, self.rate.seconds)
        return max(self.rate.seconds - age, 0.001)


class PageWindowStorage(BlockingMemoryStorage):
    """The same for the limits of pages, whose library finds it by its URL `windows://`."""

    STORAGE_SCHEME = ["windows"]  # noqa: RUF012 - the library declares it as a list

    def __init__(self, *arguments: str, **options: str) -> None:
        super().__init__()
        self.windows = Windows(time.monotonic)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return self.windows.acquire(key, limit, expiry, amount)

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """The Unix time of the oldest entry that counts, as the library expects, and how many there are."""
        age, count = self.windows.state(key, expiry)
        return time.time() - age, count


PAGE_WINDOWS = "windows://"


def shared_storage(redis_url: str) -> Storage:
    """Counters in Redis. Connects at the first hit.

    It has no socket_timeout, with which the library may swallow a cancellation in Python 3.11. One retry is for a
    connection that Redis closed meanwhile.
    """
    from redis.asyncio.retry import Retry  # the library is only for servers with Redis
    from redis.backoff import NoBackoff

    storage = storage_from_string(
        f"async+{redis_url}",
        implementation="redispy",
        wrap_exceptions=True,
        socket_connect_timeout=REDIS_PATIENCE,
        retry=Retry(NoBackoff(), 1),  # type: ignore[arg-type]
    )
    assert isinstance(storage, Storage)
    return storage


async def is_reachable(storage: Storage) -> bool:
    """Whether the counters can be reached."""
    try:
        async with asyncio.timeout(REDIS_PATIENCE):
            return await storage.check()
    except (TimeoutError, LimitsStorageError):
        return False


class SharedWindow:
    """The same where several servers share the counters. Its methods raise StorageError when these cannot be reached."""

    def __init__(self, rate: Rate, namespace: str, storage: Storage) -> None:
        self.rate = rate
        self._namespace = namespace
        self._item: RateLimitItem = RateLimitItemPerSecond(rate.count, rate.seconds)
        self._strategy = MovingWindowRateLimiter(storage)

    async def hit(self, key: str) -> float:
        """As `MovingWindow.hit`."""
        async with _storage_errors():
            if await self._strategy.hit(self._item, self._namespace, key):
                return 0.0
            return await self._seconds(key)

    async def wait(self, key: str) -> float:
        """As `MovingWindow.wait`."""
        async with _storage_errors():
            if await self._strategy.test(self._item, self._namespace, key):
                return 0.0
            return await self._seconds(key)

    async def left(self, key: str) -> Budget:
        """As `MovingWindow.left`."""
        async with _storage_errors():
            stats = await self._strategy.get_window_stats(self._item, self._namespace, key)
        unused = stats.remaining == self.rate.count
        return Budget(self.rate, stats.remaining, 0.0 if unused else self._until(stats.reset_time))

    async def _seconds(self, key: str) -> float:
        stats = await self._strategy.get_window_stats(self._item, self._namespace, key)
        return self._until(stats.reset_time)

    def _until(self, unix: float) -> float:
        """The seconds to a time. One that is later than a window lasts was stored by a clock that was ahead of ours."""
        return min(max(unix - time.time(), 0.001), float(self.rate.seconds))


def moving_window(rate: Rate, namespace: str, storage: Storage | None) -> RateLimiter:
    """A window with the shared counters, where there are any."""
    return SharedWindow(rate, namespace, storage) if storage else MovingWindow(rate)


@asynccontextmanager
async def _storage_errors() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(REDIS_PATIENCE):
            yield
    except (TimeoutError, LimitsStorageError) as error:
        raise StorageError("The limits cannot be counted: Redis cannot be reached.") from error
