"""Futures whose task goes on at once: the same turn of the loop, its own context, and all else as with any other future."""

import asyncio
from contextvars import ContextVar

import pytest

from backend.core.execution.prompt import PromptFuture

NAME: ContextVar[str] = ContextVar("name", default="")


def waiting(future: "asyncio.Future[int]", seen: list[object]) -> "asyncio.Task[None]":
    async def wait() -> None:
        NAME.set("the task")
        seen.append(await future)
        seen.append((NAME.get(), asyncio.current_task()))

    return asyncio.create_task(wait())


async def settled_by_the_loop(future: PromptFuture[int], result: int, seen: list[object]) -> list[object]:
    """What was seen when `settle` had returned."""
    returned: asyncio.Future[list[object]] = asyncio.get_running_loop().create_future()

    def settle() -> None:
        future.settle(result)
        returned.set_result(list(seen))

    asyncio.get_running_loop().call_soon(settle)
    return await returned


async def test_a_task_goes_on_within_settle_in_its_own_context() -> None:
    future, seen = PromptFuture[int](), list[object]()
    task = waiting(future, seen)
    await asyncio.sleep(0)
    assert await settled_by_the_loop(future, 5, seen) == [5, ("the task", task)]
    await task


async def test_while_a_task_runs_others_go_on_later() -> None:
    future, seen = PromptFuture[int](), list[object]()
    task = waiting(future, seen)
    await asyncio.sleep(0)
    future.settle(5)
    assert seen == []
    await task
    assert seen[0] == 5


async def test_a_second_task_goes_on_as_well() -> None:
    future, first, second = PromptFuture[int](), list[object](), list[object]()
    tasks = waiting(future, first), waiting(future, second)
    await asyncio.sleep(0)
    assert len(await settled_by_the_loop(future, 5, first)) == 2
    await asyncio.gather(*tasks)
    assert second[0] == 5


async def test_it_can_be_settled_before_it_is_awaited() -> None:
    future = PromptFuture[int]()
    await settled_by_the_loop(future, 5, [])
    assert await future == 5


async def test_a_cancelled_task_cancels_it() -> None:
    future, seen = PromptFuture[int](), list[object]()
    task = waiting(future, seen)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert future.cancelled()
    assert seen == []


async def test_an_exception_and_a_cancellation_reach_the_task() -> None:
    failed, cancelled = PromptFuture[int](), PromptFuture[int]()
    tasks = waiting(failed, []), waiting(cancelled, [])
    await asyncio.sleep(0)
    failed.set_exception(ValueError("no"))
    cancelled.cancel()
    with pytest.raises(ValueError, match="no"):
        await tasks[0]
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]


async def test_it_can_be_waited_for_with_others_and_shielded() -> None:
    future = PromptFuture[int]()
    both = asyncio.gather(future, asyncio.shield(future))
    done = asyncio.ensure_future(asyncio.wait([future]))
    await asyncio.sleep(0)
    await settled_by_the_loop(future, 5, [])
    assert list(await both) == [5, 5]
    assert (await done)[0] == {future}
