"""Timeouts that are nearly always cancelled. All of one length share a timer of the loop, which costs as much as four of these."""

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary


class Timeout:
    """Calls something when it is due, unless it is cancelled."""

    __slots__ = ("_call", "_waiting", "due")

    def __init__(self, due: float, call: Callable[[], None], waiting: "dict[Timeout, None]") -> None:
        self.due, self._waiting = due, waiting
        self._call: Callable[[], None] | None = call
        waiting[self] = None

    def cancel(self) -> None:
        """Call nothing any more, also if it is due and about to be called."""
        self._waiting.pop(self, None)
        self._call = None

    def expire(self) -> None:
        """Call it soon, unless it is cancelled before."""
        self._waiting.pop(self, None)
        asyncio.get_running_loop().call_soon(self._expired)

    def _expired(self) -> None:
        if self._call:
            self._call()


class Timeouts:
    """The timeouts of one length, in the order in which they are due."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[Timeout, None] = {}
        self._timed = False

    def begin(self, call: Callable[[], None]) -> Timeout:
        """Have it called in so many seconds."""
        loop = asyncio.get_running_loop()
        timeout = Timeout(loop.time() + self._seconds, call, self._waiting)
        if not self._timed:
            self._time(loop, timeout)
        return timeout

    def _time(self, loop: asyncio.AbstractEventLoop, first: Timeout) -> None:
        """Look again when the first is due. It may have been cancelled by then, and what waits is later."""
        self._timed = True
        loop.call_at(first.due, self._expire)

    def _expire(self) -> None:
        self._timed = False
        loop = asyncio.get_running_loop()
        now = loop.time()
        while first := next(iter(self._waiting), None):
            if first.due > now:
                self._time(loop, first)
                return
            first.expire()


_lengths: "WeakKeyDictionary[asyncio.AbstractEventLoop, dict[float, Timeouts]]" = WeakKeyDictionary()


def timeout(seconds: float, call: Callable[[], None]) -> Timeout:
    """Have it called by the running loop in so many seconds, of which there are few different ones."""
    lengths = _lengths.setdefault(asyncio.get_running_loop(), {})
    found = lengths.get(seconds)
    if found is None:
        found = lengths[seconds] = Timeouts(seconds)
    return found.begin(call)
