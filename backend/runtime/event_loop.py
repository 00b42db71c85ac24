"""The event loop of the server, which has to go on whatever commands use up."""

import asyncio
import os
import selectors


def new_event_loop() -> asyncio.AbstractEventLoop:
    """asyncio's own; not uvloop, which forks the whole process for every command.

    The kernel limits how many descriptors a user may watch with epoll, in all processes together. Unless the service is
    root, commands run as its user, and one could leave it none for new connections; poll has no such limit.
    """
    return asyncio.SelectorEventLoop(selectors.DefaultSelector() if os.geteuid() == 0 else selectors.PollSelector())
