"""Work that lets others go first: streams that fill every read, and viewers between two pieces of a long block.

asyncio's loop runs in each turn everything that is ready. A command takes some twenty turns, each of which would last as long as
a read and a write of every stream that runs at full speed. What waits here gets a turn in which nothing else is ready, one step
each, or every few turns where there is always something.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sized
from contextlib import suppress
from weakref import WeakKeyDictionary

PATIENCE = 6  # turns in which others are ready, before the next step comes all the same


class LowPriority:
    """The steps that wait for a turn of one loop.

    That others are ready is known from a private attribute of asyncio's loop; with another loop, each turn has one step.
    """

    def __init__(self, ready: Sized) -> None:
        self._ready = ready
        self._steps: deque[Callable[[], None]] = deque()
        self._scheduled = False
        self._passed = 0

    def add(self, step: Callable[[], None]) -> None:
        """Have `step` called in a later turn, after those that were added before."""
        self._steps.append(step)
        self._schedule()

    async def turn(self) -> None:
        """Wait for a turn."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.add(lambda: None if mine.done() else mine.set_result(None))
        await mine

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._scheduled = False
        try:
            if len(self._ready) and self._passed < PATIENCE:
                self._passed += 1
            else:
                self._passed = 0
                self._steps.popleft()()
        finally:
            if self._steps:
                self._schedule()


_queues: "WeakKeyDictionary[asyncio.AbstractEventLoop, LowPriority]" = WeakKeyDictionary()


def low_priority() -> LowPriority:
    """The queue of the running loop."""
    loop = asyncio.get_running_loop()
    with suppress(KeyError):
        return _queues[loop]
    queue = _queues[loop] = LowPriority(getattr(loop, "_ready", ()))
    return queue
