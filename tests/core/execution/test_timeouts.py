"""Timeouts that share a timer: each is called when it is due, and no earlier; one that is cancelled is not."""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from backend.core.execution.timeouts import timeout

SHORT = 0.02
BOUND = 30.0


class Loop(asyncio.SelectorEventLoop):
    """Counts the timers that are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = 0

    def call_at(self, *args: object, **options: object) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(*args, **options)  # type: ignore[arg-type]


def test_each_is_called_when_it_is_due() -> None:
    async def called() -> list[tuple[int, bool]]:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        found: list[tuple[int, bool]] = []
        begun = loop.time()

        def note(number: int) -> None:
            found.append((number, loop.time() >= begun + SHORT))
            if number == 2:
                done.set()

        timeouts = [timeout(SHORT, partial(note, number)) for number in range(3)]
        timeouts[1].cancel()
        await asyncio.wait_for(done.wait(), BOUND)
        timeouts[0].cancel()  # it was called: nothing happens
        return found

    assert asyncio.run(called()) == [(0, True), (2, True)]


def test_one_that_is_begun_later_is_called_later() -> None:
    async def called() -> float:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        first = timeout(SHORT, done.set)
        await asyncio.sleep(SHORT / 2)
        first.cancel()
        begun = loop.time()
        timeout(SHORT, done.set)
        await asyncio.wait_for(done.wait(), BOUND)
        return loop.time() - begun

    assert asyncio.run(called()) >= SHORT


def test_one_that_fails_leaves_the_others_their_call() -> None:
    async def called(failed: Callable[[object, object], None]) -> None:
        done = asyncio.Event()
        asyncio.get_running_loop().set_exception_handler(failed)
        timeout(SHORT, partial(list[int]().remove, 0))
        timeout(SHORT, done.set)
        await asyncio.wait_for(done.wait(), BOUND)

    failures: list[object] = []
    asyncio.run(called(lambda _, context: failures.append(context)))
    assert len(failures) == 1


def test_those_of_one_length_share_a_timer() -> None:
    async def begin() -> None:
        for _ in range(100):
            timeout(BOUND, lambda: None).cancel()

    loop = Loop()
    loop.run_until_complete(begin())
    assert loop.timers == 1
    loop.close()


def test_one_can_be_cancelled_by_another_that_is_due_at_the_same_time() -> None:
    async def called() -> list[int]:
        found: list[int] = []
        done = asyncio.Event()
        timeout(SHORT, lambda: second.cancel())
        second = timeout(SHORT, partial(found.append, 2))
        timeout(SHORT, done.set)
        await asyncio.sleep(0)
        time.sleep(2 * SHORT)  # so that all are due in one turn of the loop
        await asyncio.wait_for(done.wait(), BOUND)
        return found

    assert asyncio.run(called()) == []
