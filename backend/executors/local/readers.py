"""What the event loop reads of commands, in an epoll of its own: three calls for a descriptor, and add_reader takes fifty."""

import asyncio
import select
from collections.abc import Callable


class Readers:
    """Descriptors of one event loop. What is called for one that is readable reads it, closes it, or removes it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._epoll = select.epoll()
        self._found: dict[int, Callable[[], object]] = {}
        loop.add_reader(self._epoll.fileno(), self._call)

    def add(self, descriptor: int, found: Callable[[], object]) -> None:
        """Call `found` while there is something to read, or the end of it."""
        self._epoll.register(descriptor, select.EPOLLIN)
        self._found[descriptor] = found

    def remove(self, descriptor: int) -> None:
        """Call it no more. To be called before the descriptor is closed."""
        if self._found.pop(descriptor, None):
            self._epoll.unregister(descriptor)

    def _call(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            if found := self._found.get(descriptor):  # one that was called before may have removed it
                found()
