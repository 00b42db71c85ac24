"""What is undone when a command has ended."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Self, TypeVar

T = TypeVar("T")

Undo = Callable[[], Awaitable[object] | None]


class Ending:
    """What is undone in the end, the last first, also where some of it fails. An AsyncExitStack takes ten calls for each."""

    __slots__ = ("_undo",)

    def __init__(self) -> None:
        self._undo: list[Undo] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            while self._undo:
                if (later := self._undo.pop()()) is not None:
                    await later
        finally:
            if self._undo:
                await self.__aexit__()

    def add(self, undo: Undo) -> None:
        """Call it in the end."""
        self._undo.append(undo)

    async def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter a context, which is left in the end."""
        value = await context.__aenter__()
        self.add(partial(context.__aexit__, None, None, None))
        return value
