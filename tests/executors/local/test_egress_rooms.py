"""Commands in a real room with a list of hosts: what they reach, what they do not, and what is recorded of it."""

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backend.core.execution.instructions import Instructions
from backend.core.execution.model import Outcome
from backend.core.execution.pipeline import Pipeline
from backend.core.language.parser import Invocation
from backend.core.policy.egress import Egress, parse_hosts
from backend.core.recording.writer import Recorder
from backend.executors.local.launcher import CageLauncher
from backend.executors.local.outside import OutsideProgram
from backend.executors.local.pipelines import LocalPipelines
from backend.executors.local.process_spec import Ports
from backend.executors.local.rooms import Rooms, make_room
from tests.executors.local.caged import RUN_AS, folder
from tests.executors.local.test_egress import CALLER, World, listening
from tests.executors.local.test_pipelines import Log
from tests.executors.local.test_rooms import wanted


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A web server of the machine, on its loopback."""

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nhi\n")
        writer.close()

    async with listening(web) as port:
        yield port


class Bench(World):
    """Runs commands of a project that may reach `listed`."""

    def __init__(self, cache: Path, root: Path, listed: str, *, in_rooms: bool = True) -> None:
        super().__init__(listed)
        launcher = CageLauncher(cache, RUN_AS)
        make = partial(make_room, launcher.usable_cage()) if in_rooms else None
        self.rooms = Rooms(make, self.shared)
        outside = {"own": OutsideProgram((sys.executable,), network=Ports((9,)))}
        self.pipelines = LocalPipelines(launcher, outside, owner=RUN_AS, rooms=self.rooms)
        self.root, self.log = str(root), Log()

    async def run(self, *commands: tuple[str, ...], **more: Any) -> Outcome:
        pipeline = Pipeline(
            CALLER.execution,
            tuple(map(Invocation, commands)),
            self.root,
            self.root,
            20.0,
            1 << 20,
            network=more.get("network", Egress(parse_hosts(self.listed), "shop")),
            actor=CALLER.actor,
        )
        recorder = Recorder(CALLER.execution, self.log, asyncio.get_running_loop().time)
        return await self.pipelines.run(pipeline, recorder, Instructions(stdin=False))


@pytest.fixture
def workspace() -> Iterator[Path]:
    with folder() as place:
        yield place


async def test_a_listed_host_is_reached_by_name_and_recorded_for_the_execution(
    cache: Path, workspace: Path, port: int
) -> None:
    wanted("curl", "git")
    bench = Bench(cache, workspace, f"x.example:{port} 127.0.0.1:{port}")
    outcome = await bench.run(("curl", "-sS", f"http://x.example:{port}/"))
    assert (outcome.exit_code, bench.log.text("stdout")) == (0, "hi\n")
    assert (await bench.run(("curl", "-sS", "-p", f"http://x.example:{port}/"))).exit_code == 0  # by CONNECT
    assert (await bench.run(("git", "ls-remote", f"http://x.example:{port}/x.git"))).exit_code == 128  # there is none
    # What has ended is recorded before the end of the execution is.
    assert [(each.project, each.caller, each.host, each.traffic is None) for each in bench.recorded] == [
        ("shop", CALLER, "x.example", ended) for ended in (True, False) * 3
    ]
    assert (bench.recorded[1].traffic or (0, 0))[1] > len("hi\n")
    await bench.rooms.close()


async def test_nothing_else_is_reached(cache: Path, workspace: Path, port: int) -> None:
    """Neither another host, nor the machine, nor anything without the proxy."""
    wanted("curl")
    bench = Bench(cache, workspace, "x.example")
    refused = await bench.run(("curl", "-sS", f"https://y.example:{port}/"))
    assert refused.exit_code == 56
    assert "403" in bench.log.text("stderr")
    await bench.run(("curl", "-sS", f"http://localhost:{port}/"))  # not by the proxy: the room's own
    await bench.run(("curl", "-sS", "--noproxy", "*", f"http://127.0.0.1:{port}/"))
    await bench.run(("curl", "-sS", "--noproxy", "*", "-m", "3", "http://192.0.2.1/"))
    assert bench.log.text("stdout") == ""
    assert [(each.host, each.decision.rule) for each in bench.recorded] == [("y.example", "network.host")]
    await bench.rooms.close()


async def test_another_list_is_another_room(cache: Path, workspace: Path, port: int) -> None:
    wanted("curl")
    bench = Bench(cache, workspace, f"x.example:{port} 127.0.0.1:{port}")
    fetch = ("curl", "-sS", f"http://x.example:{port}/")
    assert (await bench.run(fetch)).exit_code == 0
    assert (await bench.run(fetch, network=False)).exit_code != 0
    bench.listed = f"y.example:{port} 127.0.0.1:{port}"
    await bench.run(fetch)
    assert bench.recorded[-1].decision.rule == "network.host"
    await bench.rooms.close()


@pytest.mark.parametrize("listed_beside", [False, True])
async def test_without_a_proxy_there_is_no_network(
    cache: Path, workspace: Path, port: int, listed_beside: bool
) -> None:
    """Where there are no rooms, and next to a program with a part of the machine's network."""
    wanted("curl")
    bench = Bench(cache, workspace, f"x.example:{port} 127.0.0.1:{port}", in_rooms=listed_beside)
    fetch = ("curl", "-sS", "--resolve", f"x.example:{port}:127.0.0.1", f"http://x.example:{port}/")
    outcome = await bench.run(*([("own", "-c", "pass")] if listed_beside else []), fetch)
    assert outcome.exit_code not in {0, 127}
    assert bench.log.text("stdout") == ""
    assert not bench.recorded
    await bench.rooms.close()


async def test_it_leaves_no_descriptor(cache: Path, workspace: Path, port: int) -> None:
    bench = Bench(cache, workspace, "x.example")
    await bench.run(("true",))
    await bench.rooms.close()
    gc.collect()  # what other tests have left open
    before = len(list(Path("/proc/self/fd").iterdir()))
    await bench.run(("true",))
    await bench.rooms.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
