"""Output on its way from a pipe to the recording."""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from backend.core.execution.instructions import Instructions
from backend.core.execution.low_priority import PATIENCE
from backend.core.recording.lines import LineAssembler
from backend.core.recording.writer import Recorder
from backend.executors.local.readers import Readers
from backend.executors.local.streams import FAST_PIPE, FAST_READ, READ_SIZE, Budget, OutputStream
from backend.storage.memory.recordings import MemoryRecordings
from tests.client import BOUND

ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


@dataclass
class Pipe:
    """A stream that is read, and the end that a program writes to."""

    stream: OutputStream
    write: int

    async def moved(self, size: int) -> None:
        async with asyncio.timeout(BOUND):
            while self.stream.bytes < size:
                await asyncio.sleep(0)


@pytest.fixture
async def pipe() -> AsyncIterator[Pipe]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 8 * READ_SIZE)
    recorder = Recorder(ID, MemoryRecordings().create(ID), time.monotonic)
    instructions = Instructions(stdin=False)
    readers = Readers(asyncio.get_running_loop())
    stream = OutputStream(readers, read, "stdout", recorder, instructions, Budget(1 << 30), LineAssembler())
    yield Pipe(stream, write)
    os.close(write)
    await stream.drain(BOUND)
    assert not stream.open


async def test_a_stream_that_fills_its_reads_lets_others_go_first(pipe: Pipe) -> None:
    os.write(pipe.write, b"0123456\n" * READ_SIZE)
    await pipe.moved(1)
    moved = []
    for _ in range(PATIENCE - 2):
        await asyncio.sleep(0)
        moved.append(pipe.stream.bytes)
    assert set(moved) == {READ_SIZE}
    await pipe.moved(8 * READ_SIZE)


async def test_a_pipe_that_is_filled_is_made_larger_and_read_in_larger_parts() -> None:
    read, write = os.pipe()
    os.set_blocking(read, False)
    size, log = fcntl.fcntl(write, fcntl.F_GETPIPE_SZ), MemoryRecordings().create(ID)
    readers, recorder = Readers(asyncio.get_running_loop()), Recorder(ID, log, time.monotonic)
    budget = Budget(1 << 30)
    found = Pipe(
        OutputStream(readers, read, "stdout", recorder, Instructions(stdin=False), budget, LineAssembler()), write
    )
    os.write(write, b"short\n")
    await found.moved(6)
    assert fcntl.fcntl(write, fcntl.F_GETPIPE_SZ) == size
    os.write(write, b"0123456\n" * (READ_SIZE // 8))
    await found.moved(READ_SIZE + 6)
    assert fcntl.fcntl(write, fcntl.F_GETPIPE_SZ) == FAST_PIPE
    os.write(write, b"0123456\n" * (FAST_PIPE // 8))
    sizes = set()
    async with asyncio.timeout(BOUND):
        while (before := found.stream.bytes) < READ_SIZE + 6 + FAST_PIPE:
            await asyncio.sleep(0)
            sizes.add(found.stream.bytes - before)
    assert max(sizes) == FAST_READ
    os.close(write)
    await found.stream.drain(BOUND)


async def test_it_goes_on_when_there_was_nothing_for_a_while(pipe: Pipe) -> None:
    os.write(pipe.write, b"0123456\n" * (READ_SIZE // 4))
    await pipe.moved(2 * READ_SIZE)
    for _ in range(2 * PATIENCE):
        await asyncio.sleep(0)
    os.write(pipe.write, b"more\n")
    await pipe.moved(2 * READ_SIZE + 5)


async def test_the_start_of_a_line_at_the_end_of_a_long_read_is_passed_on(pipe: Pipe) -> None:
    os.write(pipe.write, b"0123456\n" * (READ_SIZE // 8 - 1) + b"name: ")
    await pipe.moved(READ_SIZE - 2)
    assert pipe.stream.assembler.pending
    async with asyncio.timeout(BOUND):
        while pipe.stream.assembler.pending:
            await asyncio.sleep(0.01)


async def test_what_is_left_of_a_stream_that_stood_back_is_read_at_the_end(pipe: Pipe) -> None:
    os.write(pipe.write, b"0123456\n" * READ_SIZE)
    await pipe.moved(1)
    await pipe.stream.drain(0)
    assert (pipe.stream.bytes, pipe.stream.open) == (8 * READ_SIZE, False)
