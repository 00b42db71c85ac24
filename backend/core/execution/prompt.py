"""Futures whose waiting task goes on at once when they are settled by a callback of the loop, not in its next turn.

A turn of asyncio costs as much as fifty calls of functions, and a command has three that only wake a task. This uses what
asyncio asks of the futures of others: `add_done_callback` with a context, and `_asyncio_future_blocking`.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Self, TypeVar

T = TypeVar("T")


class PromptFuture(asyncio.Future[T]):
    """One of the running loop. It may be awaited by one task; for all else it is a future as any other."""

    _wake: tuple[Callable[[Any], object], Context] | None = None

    def add_done_callback(self, fn: Callable[[Self], object], /, *, context: Context | None = None) -> None:
        if self._wake is None and context is not None and not self.done():
            self._wake = fn, context
        else:
            super().add_done_callback(fn, context=context)

    def remove_done_callback(self, fn: Callable[[Self], object], /) -> int:
        if self._wake and self._wake[0] == fn:
            self._wake = None
            return 1 + super().remove_done_callback(fn)
        return super().remove_done_callback(fn)

    def cancel(self, msg: Any | None = None) -> bool:
        self._wake_later()
        return super().cancel(msg)

    def set_result(self, result: T, /) -> None:
        self._wake_later()
        super().set_result(result)

    def set_exception(self, exception: type | BaseException, /) -> None:
        self._wake_later()
        super().set_exception(exception)

    def settle(self, result: T) -> None:
        """Set the result, and have the task go on now unless another one is running."""
        if asyncio.current_task() is not None:
            self.set_result(result)
            return
        wake, self._wake = self._wake, None
        super().set_result(result)
        if wake:
            call, context = wake
            context.run(call, self)

    def _wake_later(self) -> None:
        """Have the task go on in the next turn."""
        if self._wake:
            call, context = self._wake
            self._wake = None
            super().add_done_callback(call, context=context)
