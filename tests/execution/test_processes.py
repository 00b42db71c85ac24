"""All processes of a command go with it, and no others."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from backend.execution.processes import MARK, Processes

NEST = """
import os, sys, time
shape = sys.argv[1]
if shape == "child":
    os.fork()
if shape == "session" and os.fork() == 0:
    os.setsid()
if shape == "orphan":
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
print("up", flush=True)
time.sleep(60)
"""


def spawn(shape: str, execution: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", NEST, shape],
        env={MARK: execution},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def marked(execution: str) -> list[int]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if f"{MARK}={execution}".encode() in file.read():
                    found.append(int(pid))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("shape", ["plain", "child", "session", "orphan"])
async def test_nothing_is_left_of_a_command_that_is_killed(shape: str) -> None:
    processes, execution = Processes(), f"killed-{shape}"
    process, bystander = spawn(shape, execution), spawn("child", "bystander")
    processes.add(process.pid, execution)
    processes.add(bystander.pid, "bystander")
    wanted = 1 if shape == "plain" else 2
    await eventually(lambda: len(marked(execution)) >= wanted and len(marked("bystander")) == 2)
    assert await processes.kill(process.pid)
    process.wait(5)
    await eventually(lambda: marked(execution) == [])
    assert len(marked("bystander")) == 2
    assert await processes.kill(bystander.pid)
    bystander.wait(5)
    for each in (process, bystander):
        assert each.stdout
        each.stdout.close()


async def test_an_orphan_is_found_after_its_parent_has_gone() -> None:
    processes = Processes()
    process = spawn("orphan", "parted")
    processes.add(process.pid, "parted")
    await eventually(lambda: bool(processes.left(process.pid)))
    process.kill()
    await eventually(lambda: len(marked("parted")) == 1)
    assert processes.left(process.pid) == marked("parted")
    assert await processes.kill(process.pid)
    process.wait(5)
    assert marked("parted") == []
    assert process.stdout
    process.stdout.close()
