"""The counters behind the limits, in the memory of this process."""

import time

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from backend.core.limits import Rate


class MovingWindow:
    """Counts against one rate in a moving window; the same object serves every front."""

    def __init__(self, rate: Rate, namespace: str) -> None:
        self.rate = rate
        self._namespace = namespace
        self._item: RateLimitItem = RateLimitItemPerSecond(rate.count, rate.seconds)
        self._strategy = MovingWindowRateLimiter(MemoryStorage())

    async def hit(self, key: str) -> float:
        """Count one for `key`: 0.0 when admitted, else the seconds until the window has room."""
        if await self._strategy.hit(self._item, self._namespace, key):
            return 0.0
        stats = await self._strategy.get_window_stats(self._item, self._namespace, key)
        return max(stats.reset_time - time.time(), 0.001)
