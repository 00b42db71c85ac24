"""What takes long lets others go first, and is not forgotten."""

import asyncio

from backend.core.execution.low_priority import PATIENCE, LowPriority, low_priority


async def busy(turns: int, order: list[str]) -> None:
    """Something that is ready in so many turns, one after another."""
    for number in range(turns):
        order.append(f"turn {number}")
        await asyncio.sleep(0)


async def test_a_step_waits_until_nothing_else_is_ready() -> None:
    order: list[str] = []
    other = asyncio.ensure_future(busy(PATIENCE - 1, order))
    await low_priority().turn()
    order.append("step")
    await other
    assert order == [*(f"turn {number}" for number in range(PATIENCE - 1)), "step"]


async def test_a_step_gets_its_turn_where_there_is_always_something() -> None:
    order: list[str] = []
    other = asyncio.ensure_future(busy(3 * PATIENCE, order))
    await low_priority().turn()
    assert PATIENCE <= len(order) < 2 * PATIENCE
    await other


async def test_of_many_steps_each_turn_runs_one_in_order() -> None:
    order: list[str] = []

    async def step(name: str) -> None:
        for number in range(3):
            await low_priority().turn()
            order.append(f"{name}{number}")

    await asyncio.gather(step("a"), step("b"))
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_a_step_that_fails_or_is_given_up_holds_up_no_other() -> None:
    queue = low_priority()
    failed = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().set_exception_handler(lambda _, report: failed.set_result(report["exception"]))
    queue.add(lambda: 1 / 0)  # type: ignore[arg-type]
    given_up = asyncio.ensure_future(queue.turn())
    await asyncio.sleep(0)
    given_up.cancel()
    await queue.turn()
    assert isinstance(await failed, ZeroDivisionError)


async def test_where_the_loop_does_not_say_who_is_ready_each_turn_runs_a_step() -> None:
    order: list[str] = []
    queue = LowPriority(())
    other = asyncio.ensure_future(busy(5, order))
    await queue.turn()
    order.append("step")
    await other
    assert order.index("step") <= 2


async def test_the_loop_says_who_is_ready() -> None:
    """The attribute is private to asyncio."""
    loop = asyncio.get_running_loop()
    ready = getattr(loop, "_ready")  # noqa: B009
    before = len(ready)
    loop.call_soon(lambda: None)
    assert len(ready) == before + 1
