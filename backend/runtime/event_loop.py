"""The event loop of the server, which has to go on whatever commands and clients use up."""

import asyncio
import gc
import os
import selectors
from typing import Any

OBJECTS = 50_000  # that are made, and not freed, between two collections


class PatientLoop(asyncio.SelectorEventLoop):
    """asyncio's own, which accepts one connection a turn.

    asyncio accepts as many a turn as may wait, and for each that fails for want of a descriptor it sets a timer that
    tries as many again: thousands, and thousands for each of those.
    """

    def _start_serving(
        self, protocol_factory: Any, sock: Any, ssl: Any = None, server: Any = None, *others: Any
    ) -> None:
        """Accept connections of a socket, unless it was closed in the meantime. `others` begin with how many a turn."""
        if sock.fileno() >= 0:
            super()._start_serving(protocol_factory, sock, ssl, server, 1, *others[1:])  # type: ignore[misc]


def calm_collector() -> None:
    """Collect cyclic garbage less often. By default each collection looks at all that a request has made so far, again and
    again, so that parsing a body of many small values takes eight times as long, in the thread of the loop.
    """
    gc.set_threshold(OBJECTS, 20, 50)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """asyncio's; not uvloop, which forks the whole process for every command.

    The kernel limits how many descriptors a user may watch with epoll, in all processes together. Unless the service is
    root, commands run as its user, and one could leave it none for new connections; poll has no such limit.
    """
    return PatientLoop(selectors.DefaultSelector() if os.geteuid() == 0 else selectors.PollSelector())
