"""Reading a recording: live from a number on, or what is stored now between two places."""

from collections.abc import Awaitable, Callable
from typing import Protocol

# Takes a block of whole stored lines. Awaiting it is the back-pressure: nothing more is read meanwhile.
Send = Callable[[bytes], Awaitable[None]]


class RecordingReader(Protocol):
    """The recording of one execution, for its viewers."""

    async def copy(self, send: Send, begin: int = 0, end: int | None = None) -> int:
        """Send what is stored now from `begin`, the place of a line, to `end`, in blocks of whole lines.

        Returns the place behind what was sent; places are bytes of what is stored.
        """
        ...

    async def follow(self, after_seq: int, send: Send) -> None:
        """Send blocks of whole stored lines with a higher number, live, until the end."""
        ...
