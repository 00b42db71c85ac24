"""What is undone when a command has ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from backend.executors.local.ending import Ending


async def later(undone: list[str], name: str) -> None:
    await asyncio.sleep(0)
    undone.append(name)


@asynccontextmanager
async def used(undone: list[str], name: str) -> AsyncIterator[str]:
    try:
        yield name
    finally:
        await later(undone, name)


async def test_the_last_is_undone_first_and_what_takes_a_while_is_waited_for() -> None:
    undone: list[str] = []
    async with Ending() as ending:
        ending.add(partial(undone.append, "first"))
        ending.add(partial(later, undone, "second"))
        assert await ending.enter(used(undone, "third")) == "third"
        assert undone == []
    assert undone == ["third", "second", "first"]


@pytest.mark.parametrize("within", [True, False])
async def test_all_of_it_is_undone_where_some_fails(within: bool) -> None:
    undone: list[str] = []

    def fail() -> None:
        raise ValueError("undoing")

    with pytest.raises(ValueError, match="undoing"):
        async with Ending() as ending:
            ending.add(partial(undone.append, "first"))
            ending.add(fail)
            await ending.enter(used(undone, "third"))
            if within:
                raise KeyError("the command")
    assert undone == ["third", "first"]
