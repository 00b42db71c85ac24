"""Which server is asked next for a recording, and when none is left to ask."""

import asyncio
import random
from time import monotonic

from backend.bus.incoming import IncomingRelay
from backend.bus.link import Link

LOOK_BOUND = 2.0  # seconds for one search
LOOK_EVERY = 0.5  # seconds between two searches, or two requests of which the first was not accepted
OUTAGE_BOUND = 45.0  # seconds within which Redis and then a server must come back: 30, and time for both to join again


class Search:
    """The servers at one address, the id of a server or of a folder, for one recording.

    Waits only for a recording that was interrupted in the middle.
    """

    def __init__(self, link: Link, address: str) -> None:
        self._link = link
        self._address = address
        self._deaf: set[str] = set()
        self._interrupted = False
        self._until = 0.0
        self._pause = 0.0

    def learn(self, server: str, relay: IncomingRelay, *, away: bool) -> None:
        """Consider how a relay ended early. `away`: the server reported that it is leaving."""
        self._interrupted = relay.interrupted
        self._pause = 0.0 if relay.accepted else LOOK_EVERY
        if relay.interrupted:  # because of Redis, not of the server
            self._deaf.clear()
            self._until = monotonic() + OUTAGE_BOUND if relay.accepted else self._until
        else:
            self._until = 0.0
            if away or not relay.accepted:
                self._deaf.add(server)

    async def next(self) -> str:
        """A server to ask; empty when there is none."""
        if self._interrupted and monotonic() >= self._until:
            return ""
        await asyncio.sleep(self._pause)
        while not (servers := await self._look() - self._deaf):
            if self._link.closed or monotonic() >= self._until:
                return ""
            await asyncio.sleep(LOOK_EVERY * random.uniform(0.5, 1.0))
        return random.choice(sorted(servers))

    async def _look(self) -> frozenset[str]:
        try:
            async with asyncio.timeout(max(self._until - monotonic(), LOOK_BOUND)):
                await self._link.up.wait()
                found = await self._link.presence(self._address)
        except TimeoutError:
            return frozenset()
        return found.servers if found else frozenset()
