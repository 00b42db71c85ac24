"""Wakes tasks of this process that wait for something to change. What has changed, they read where it is stored."""

import asyncio
from contextlib import suppress
from dataclasses import field

from backend.core.dataclasses import dataclass


@dataclass(slots=True)
class KnownEmpty:
    """That nothing was found under a name: known until then, by the clock of the caller, unless it is woken before."""

    until: float = 0.0
    woken: bool = False

    def found_nothing(self, until: float) -> None:
        """Nothing was found by a look that began after this was asked for."""
        if not self.woken:
            self.until = until


@dataclass(frozen=True, slots=True)
class Wakeups:
    """Who waits, by the name of what is waited for."""

    _waiting: dict[str, set[asyncio.Event]] = field(default_factory=dict)
    _empty: dict[str, KnownEmpty] = field(default_factory=dict)

    def wake(self, name: str) -> None:
        """Wake those that wait for `name`."""
        if known := self._empty.pop(name, None):
            known.woken, known.until = True, 0.0
        for event in self._waiting.get(name, ()):
            event.set()

    def wake_all(self) -> None:
        """Wake all, for whatever they wait."""
        for name in (*self._waiting, *self._empty):
            self.wake(name)

    def known_empty(self, name: str) -> KnownEmpty:
        """What is known of `name` since it was woken."""
        return self._empty.setdefault(name, KnownEmpty())

    def watch(self, name: str) -> "Watch":
        """Watch `name` within a context: what happens between two waits is not missed."""
        return Watch(self._waiting, name)


@dataclass(slots=True)
class Watch:
    """A watch over one name."""

    waiting: dict[str, set[asyncio.Event]]
    name: str
    event: asyncio.Event = field(default_factory=asyncio.Event)

    def __enter__(self) -> "Watch":
        self.waiting.setdefault(self.name, set()).add(self.event)
        return self

    def __exit__(self, *_: object) -> None:
        others = self.waiting[self.name]
        others.discard(self.event)
        if not others:
            del self.waiting[self.name]

    async def wait(self, seconds: float) -> None:
        """Wait until it is woken, or for so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.event.wait()
        self.event.clear()
