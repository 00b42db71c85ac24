"""What the event loop reads of commands."""

import asyncio
import os
from collections.abc import Iterator
from functools import partial

import pytest

from backend.executors.local.readers import Readers

BOUND = 30


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    made = [os.pipe() for _ in range(2)]
    yield made
    for reading, writing in made:
        os.close(reading)
        os.close(writing)


def end(readers: Readers, descriptor: int, ended: asyncio.Event) -> None:
    readers.remove(descriptor)
    ended.set()


async def turns(until: asyncio.Event) -> None:
    async with asyncio.timeout(BOUND):
        await until.wait()


async def test_each_is_called_for_what_can_be_read_until_it_is_removed(pipes: list[tuple[int, int]]) -> None:
    readers, found, ended = Readers(asyncio.get_running_loop()), list[bytes](), asyncio.Event()
    (first, to_first), (second, to_second) = pipes

    def read() -> None:
        found.append(os.read(first, 1))
        if len(found) == 2:
            readers.remove(first)
            os.write(to_second, b"x")

    readers.add(first, read)
    readers.add(second, partial(end, readers, second, ended))
    os.write(to_first, b"abc")
    await turns(ended)
    assert (found, os.read(first, 9)) == ([b"a", b"b"], b"c")
    assert os.read(second, 9) == b"x", "nothing is read of one that was removed"


async def test_one_that_another_has_removed_is_not_called(pipes: list[tuple[int, int]]) -> None:
    readers, called, ended = Readers(asyncio.get_running_loop()), list[int](), asyncio.Event()
    descriptors = [reading for reading, _ in pipes]

    def found(descriptor: int) -> None:
        called.append(descriptor)
        for each in descriptors:
            readers.remove(each)
        ended.set()

    for each in descriptors:
        readers.add(each, partial(found, each))
    for _, writing in pipes:
        os.write(writing, b"x")
    await turns(ended)
    await asyncio.sleep(0)
    assert len(called) == 1


async def test_an_error_of_one_does_not_keep_others_from_being_called(pipes: list[tuple[int, int]]) -> None:
    loop, errors, ended = asyncio.get_running_loop(), list[object](), asyncio.Event()
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
    readers, (failing, other) = Readers(loop), (reading for reading, _ in pipes)

    def fail() -> None:
        readers.remove(failing)
        raise ValueError

    readers.add(failing, fail)
    readers.add(other, partial(end, readers, other, ended))
    for _, writing in pipes:
        os.write(writing, b"x")
    await turns(ended)
    assert [type(error) for error in errors] == [ValueError]
