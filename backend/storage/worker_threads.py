"""Threads that work for an event loop. An executor takes twice the processor time, for a second future of each function."""

import asyncio
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

from backend.core.dataclasses import dataclass

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Task(Generic[T]):
    work: Callable[[], T]
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[T]"

    def run(self) -> None:
        try:
            result = self.work()
        except BaseException as error:
            self._settle(self.done.set_exception, error)
        else:
            self._settle(self.done.set_result, result)

    def _settle(self, settle: Callable[[Any], None], outcome: object) -> None:
        with suppress(RuntimeError):  # the loop was closed
            self.loop.call_soon_threadsafe(_unless_done, self.done, settle, outcome)


def _unless_done(done: "asyncio.Future[Any]", settle: Callable[[Any], None], outcome: object) -> None:
    """Settle what its caller has not cancelled."""
    if not done.done():
        settle(outcome)


class WorkerThreads:
    """Threads that start at once: later, commands may have used up the processes that this one may start."""

    def __init__(self, size: int, name: str) -> None:
        self._queue: SimpleQueue[_Task[object] | None] = SimpleQueue()
        self._threads = [
            Thread(target=_work, args=(self._queue,), name=f"{name}_{number}", daemon=True) for number in range(size)
        ]
        for thread in self._threads:
            thread.start()
        self._end = weakref.finalize(self, _end, self._queue, size)  # also without a shutdown

    def run(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Run a function in the next thread that is free, in their order; also if its caller is cancelled."""
        if not self._end.alive:
            raise RuntimeError("the threads were shut down")
        loop = asyncio.get_running_loop()
        task = _Task(work, loop, loop.create_future())
        self._queue.put(task)
        return task.done

    def shutdown(self) -> None:
        """End the threads, once what they have to run has ended."""
        self._end()
        for thread in self._threads:
            thread.join()


def _work(queue: "SimpleQueue[_Task[object] | None]") -> None:
    while (task := queue.get()) is not None:
        task.run()
        del task  # it may be what keeps these threads from being shut down


def _end(queue: "SimpleQueue[_Task[object] | None]", size: int) -> None:
    for _ in range(size):
        queue.put(None)
