"""Threads that work for an event loop. An executor takes twice the processor time, for a second future of each function."""

import asyncio
import weakref
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

from backend.core.dataclasses import dataclass
from backend.core.execution.prompt import PromptFuture

T = TypeVar("T")


Then = Callable[[T | None, BaseException | None], None]  # called with the result, or with the error


@dataclass(frozen=True, slots=True)
class _Task(Generic[T]):
    work: Callable[[], T]
    loop: asyncio.AbstractEventLoop
    then: Then[T]

    def run(self) -> None:
        result, failed = None, None
        try:
            result = self.work()
        except BaseException as error:
            failed = error
        try:
            self.loop.call_soon_threadsafe(self.then, result, failed)
        except RuntimeError:
            return  # the loop was closed


def _settle(done: PromptFuture[Any], result: object, failed: BaseException | None) -> None:
    """Settle what its caller has not cancelled."""
    if done.done():
        return
    if failed is None:
        done.settle(result)
    else:
        done.set_exception(failed)


class WorkerThreads:
    """Threads that start at once: later, commands may have used up the processes that this one may start."""

    def __init__(self, size: int, name: str) -> None:
        self._queue: SimpleQueue[_Task[Any] | None] = SimpleQueue()
        self._threads = [
            Thread(target=_work, args=(self._queue,), name=f"{name}_{number}", daemon=True) for number in range(size)
        ]
        for thread in self._threads:
            thread.start()
        self._end = weakref.finalize(self, _end, self._queue, size)  # also without a shutdown

    def run(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Run a function in the next thread that is free, in their order; also if its caller is cancelled."""
        done: PromptFuture[T] = PromptFuture()
        self.call(work, partial(_settle, done))
        return done

    def call(self, work: Callable[[], T], then: Then[T]) -> None:
        """The same, and call `then` in the event loop."""
        loop = asyncio.get_running_loop()
        if self._end.alive:
            self._queue.put(_Task(work, loop, then))
        else:
            loop.call_soon(then, None, RuntimeError("the threads were shut down"))

    def shutdown(self) -> None:
        """End the threads, once what they have to run has ended."""
        self._end()
        for thread in self._threads:
            thread.join()


def _work(queue: "SimpleQueue[_Task[Any] | None]") -> None:
    while (task := queue.get()) is not None:
        task.run()
        del task  # it may be what keeps these threads from being shut down


def _end(queue: "SimpleQueue[_Task[Any] | None]", size: int) -> None:
    for _ in range(size):
        queue.put(None)
