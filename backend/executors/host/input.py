"""Standard input of a command on an enrolled host: passed on in parts, each until the host has confirmed it.

A part says where it begins, so one that arrives twice is read once. The host confirms what the command's buffer has room
for; the rest waits here, and a client that sends more than that is answered that nothing reads it.
"""

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from backend.core.execution.instructions import StdinBuffer

PART = 64 * 1024  # bytes
SEND_AGAIN = 1.0  # seconds without a confirmation


class InputSender:
    """Passes on what a buffer holds. `send` sends an instruction to the host; nothing is raised if it gets lost."""

    def __init__(self, stdin: StdinBuffer, send: Callable[[Mapping[str, Any]], Awaitable[None]]) -> None:
        self._stdin, self._send = stdin, send
        self._changed, self._confirmed = asyncio.Event(), asyncio.Event()
        self._passed = 0
        stdin.on_change = self._changed.set

    async def run(self) -> None:
        """Pass on input until the host takes no more."""
        while not self._stdin.abandoned:
            if self._stdin.waiting or self._stdin.closed:
                await self._pass_on()
            else:
                await self._changed.wait()
            self._changed.clear()

    async def _pass_on(self) -> None:
        part = bytes(self._stdin.waiting[:PART])
        last = self._stdin.closed and len(part) == len(self._stdin.waiting)
        self._confirmed.clear()
        await self._send({"write": b64encode(part).decode(), "begin": self._passed, "last": last})
        with suppress(TimeoutError):
            async with asyncio.timeout(SEND_AGAIN):
                await self._confirmed.wait()

    def confirm(self, upto: Any, closed: Any) -> None:
        """The host has taken the first `upto` bytes and, if `closed`, takes no more."""
        if type(upto) is int and 0 < upto - self._passed <= len(self._stdin.waiting):
            del self._stdin.waiting[: upto - self._passed]
            self._passed = upto
            self._confirmed.set()
        if closed is True:
            self._stdin.abandon()
            self._confirmed.set()
