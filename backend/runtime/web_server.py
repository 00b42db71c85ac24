"""The web server that serves the application, as the application finds it: by the handler of the stop signals.

uvicorn closes its connections before it ends the application, so viewers would not receive the end of what they view.
Therefore the first stop signal ends all executions and is passed on to the server's own handler after that. This
works under `serve`, `uvicorn backend.server:app` and gunicorn's uvicorn workers alike; under a server without such a
handler, executions end with the application.
"""

import asyncio
import errno
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import field
from inspect import ismethod
from types import FrameType
from typing import Any

from backend.core.client_address import reachable
from backend.core.dataclasses import dataclass

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
ACCEPT_REPORTS = 60.0  # seconds between two reports that no connection can be accepted
POLL = 0.05  # seconds between two looks whether the server listens, which it does not report

Handler = Callable[[int, FrameType | None], Any]


@dataclass(slots=True)
class WebServer:
    """The server of this process. `handlers` are its own for the stop signals."""

    handlers: dict[int, Handler]
    received: set[int] = field(default_factory=set)
    stopping: asyncio.Task[None] | None = None
    passed_on: bool = False

    async def address(self) -> str | None:
        """The URL that it listens on, once it does; None if that cannot be found out."""
        server: Any = getattr(self.handlers.get(signal.SIGTERM), "__self__", None)
        if not hasattr(server, "started"):
            return None
        while not server.started:
            await asyncio.sleep(POLL)
        return _url(server.servers[0].sockets[0].getsockname(), "https" if server.config.is_ssl else "http")

    @contextmanager
    def stopped_after(self, end: Callable[[], Awaitable[None]]) -> Iterator[None]:
        """Within this, a stop signal reaches the server after `end`, a second Ctrl-C at once.

        Another signal meanwhile is the same stop once more: a platform and a parent process may both send one.
        """
        loop = asyncio.get_running_loop()

        def receive(number: int, frame: FrameType | None) -> None:
            if self.passed_on or (number == signal.SIGINT and number in self.received):
                self._pass_on(number)
            else:
                self.received.add(number)
                loop.call_soon_threadsafe(begin, number)

        def begin(number: int) -> None:
            self.stopping = self.stopping or loop.create_task(self._stop(number, end))

        for number in self.handlers:
            signal.signal(number, receive)
        try:
            yield
        finally:
            for number, handler in self.handlers.items():
                if signal.getsignal(number) is receive:
                    signal.signal(number, handler)

    async def _stop(self, number: int, end: Callable[[], Awaitable[None]]) -> None:
        try:
            await end()
        finally:
            if not self.passed_on:
                self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        self.passed_on = True
        self.handlers[number](number, None)


@dataclass(slots=True)
class LoopErrors:
    """Reports what the loop cannot pass on. While descriptors are used up, it fails to accept thousands of times a second."""

    warn: Callable[[str], None]
    reported: float = -ACCEPT_REPORTS

    def report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report an error; of those of `accept`, one a minute."""
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in EXHAUSTED and "accept" in context["message"]):
            loop.default_exception_handler(context)
        elif loop.time() >= self.reported + ACCEPT_REPORTS:
            self.reported = loop.time()
            self.warn(f"Connections cannot be accepted: {error.strerror}. They wait until others are closed.")


def find_web_server() -> WebServer:
    """The server that runs in this process; without handlers if it has none for the stop signals."""
    if threading.current_thread() is not threading.main_thread():
        return WebServer({})
    found = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    return WebServer({number: handler for number, handler in found.items() if ismethod(handler)})


def _url(name: Any, scheme: str) -> str | None:
    """The URL of a socket by its name, as a client on this machine reaches it; None for one in the file system."""
    if not isinstance(name, tuple):
        return None
    return f"{scheme}://{reachable(name[0])}:{name[1]}"
