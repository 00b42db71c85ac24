"""A stand-in for the published page, from the facts of its protocol: it knows five types of messages and no more.

It counts itself connected on `ready`, shows each `stdout` as a line and each `error` by its message, and takes no input
while a command runs, until `complete` or `error` comes. A new connection changes none of this: what it waits for, it
waits for on the next connection too.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.serving import Server

BOUND = 30.0  # seconds that anything is waited for


@dataclass(slots=True)
class OldClient:
    """The state of the page. Without an `origin` it is a page of the server itself."""

    origin: str | None = None
    shown: list[str] = field(default_factory=list)
    connected: bool = False
    busy: bool = False
    close_code: int | None = None
    socket: ClientConnection | None = None

    @property
    def takes_input(self) -> bool:
        return self.connected and not self.busy

    @property
    def text(self) -> str:
        """What a person reads."""
        return "\n".join(self.shown)

    @asynccontextmanager
    async def on(self, server: Server) -> AsyncIterator[None]:
        """Connected to a server, from `ready` on."""
        origin: Any = self.origin or server.url
        async with connect(server.ws_url, origin=origin, compression=None, close_timeout=1) as self.socket:
            await self.until(lambda: self.connected)
            yield
        self.connected = False

    def fetch(self, server: Server, path: str) -> Any:
        """`fetch(path)` as a browser permits it: a page of another origin may read what names it."""
        answer = server.get(path, {"Origin": self.origin} if self.origin else {})
        if self.origin and answer.headers.get("access-control-allow-origin") != self.origin:
            raise PermissionError("the browser hides the response")
        return answer.json

    async def send(self, line: str) -> None:
        """Type a command and press Enter."""
        assert self.takes_input, "the input is disabled"
        assert self.socket
        self.busy = True
        await self.socket.send(json.dumps({"command": line}))

    async def run(self, line: str) -> list[str]:
        """Send a command; the lines that are shown until the next one can be typed."""
        before = len(self.shown)
        await self.send(line)
        await self.until(lambda: not self.busy)
        return self.shown[before:]

    async def until(self, reached: Any, bound: float = BOUND) -> None:
        """Process messages until something holds."""
        async with asyncio.timeout(bound):
            while not reached():
                await self._next()

    async def until_closed(self) -> None:
        """Process messages until the server closes the connection."""
        assert self.socket
        try:
            await self.until(lambda: False)
        except ConnectionClosed:
            self.connected, self.close_code = False, self.socket.close_code

    async def _next(self) -> None:
        assert self.socket
        self._take(json.loads(await self.socket.recv()))

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "waking":
                pass
            case "ready":
                self.connected = True
            case "stdout":
                self.shown.append(message["line"])
            case "error":
                self.shown.append(message["message"])
                self.busy = False
            case "complete":
                self.busy = False
