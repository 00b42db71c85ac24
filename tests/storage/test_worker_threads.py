"""Threads that work for an event loop."""

import asyncio
import threading
import weakref
from functools import partial

import pytest

from backend.storage.worker_threads import WorkerThreads


async def test_they_work_when_no_thread_can_be_started_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = WorkerThreads(3, "test")
    monkeypatch.setattr("threading.Thread.start", None)
    meeting = threading.Barrier(3, timeout=30)
    assert sorted(await asyncio.gather(*(threads.run(meeting.wait) for _ in range(3)))) == [0, 1, 2]
    threads.shutdown()


async def test_one_thread_keeps_the_order_and_runs_what_was_cancelled() -> None:
    threads, ran, go = WorkerThreads(1, "test"), list[int](), threading.Event()
    first = threads.run(lambda: go.wait(30))
    _, two, three = (threads.run(partial(ran.append, number)) for number in (1, 2, 3))
    two.cancel()
    go.set()
    assert await first
    await three
    assert ran == [1, 2, 3]
    assert two.cancelled()
    threads.shutdown()


async def test_an_error_is_that_of_its_caller_alone() -> None:
    threads = WorkerThreads(1, "test")
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 / 0)
    assert await threads.run(lambda: 1) == 1
    threads.shutdown()


async def test_to_shut_down_waits_for_what_was_to_be_run() -> None:
    threads, ran = WorkerThreads(2, "test"), list[int]()
    for number in range(20):
        threads.run(partial(ran.append, number))
    threads.shutdown()
    assert sorted(ran) == list(range(20))
    with pytest.raises(RuntimeError, match="shut down"):
        await threads.run(lambda: 1)


async def test_threads_without_an_owner_end() -> None:
    threads = WorkerThreads(1, "test")
    [thread], gone = threads._threads, weakref.ref(threads)
    await threads.run(lambda: None)
    del threads
    assert gone() is None
    await asyncio.to_thread(thread.join, 30)
    assert not thread.is_alive()
