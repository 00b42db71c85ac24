"""A socket that is cut loses nothing and doubles nothing; a client that dies leaves nothing."""

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.client import BATCH, LINES, assert_gapless, output, span, terminal
from tests.conftest import StartServer
from tests.serving import ROOT, Server, processes_of, wait_until

COUNT = 200_000
CUTS = 12

# A client that watches a command until it is killed.
VIEWER = """
import json, sys
from websockets.sync.client import connect
with connect(sys.argv[1], compression=None) as socket:
    socket.send(json.dumps({"type": "run", "command": sys.argv[2]}))
    for message in socket:
        print(message, flush=True)
"""


@pytest.mark.parametrize("subprotocol", [LINES, BATCH])
async def test_200000_lines_survive_a_dozen_cuts(server: Server, subprotocol: str) -> None:
    dice = random.Random(7)
    cuts = sorted(dice.sample(range(1, COUNT), CUTS))
    messages: list[dict[str, Any]] = []
    execution = None

    def seen() -> int:
        return span(messages[-1])[-1] if messages else 0

    for cut in [*cuts, None]:
        async with terminal(server, subprotocol) as client:
            if execution is None:
                # Pauses in between: some cuts meet a command that still runs, some one that has ended.
                script = f"for i in 0 1 2 3; do seq $((i*{COUNT // 4}+1)) $(((i+1)*{COUNT // 4})); sleep 0.1; done"
                await client.send(type="run", command=f"pyguard bash -c '{script}'")
            else:
                await client.send(type="attach", execution=execution, after_seq=seen())
            while cut is None or seen() < cut:
                messages.append(await client.receive())
                if messages[-1]["type"] == "complete":
                    break
            execution = messages[0]["execution"]
            if cut is not None:
                client.socket.transport.abort()
    assert_gapless(messages)
    assert output(messages) == "".join(f"{number}\n" for number in range(1, COUNT + 1))
    assert messages[-1]["status"] == "succeeded"


async def test_a_cut_at_any_moment_of_a_live_command_loses_nothing(server: Server) -> None:
    """Cut by time, not by number: also before `started`, in the middle of a frame and around the end."""
    dice = random.Random(11)

    async def follow() -> None:
        messages: list[dict[str, Any]] = []
        async with terminal(server) as owner:
            execution = (await owner.start("pyguard bash -c 'for i in {1..60}; do seq 200; sleep 0.01; done'"))[
                "execution"
            ]
            while not messages or messages[-1]["type"] != "complete":
                async with terminal(server) as client:
                    after = span(messages[-1])[-1] if messages else 0
                    await client.send(type="attach", execution=execution, after_seq=after)
                    end = time.monotonic() + dice.uniform(0, 0.3)
                    while (left := end - time.monotonic()) > 0:
                        try:
                            messages.append(await client.receive(left))
                        except TimeoutError:
                            break
                        if messages[-1]["type"] == "complete":
                            break
                    client.socket.transport.abort()
        assert_gapless(messages)
        assert output(messages) == "".join(f"{number}\n" for number in range(1, 201)) * 60

    await asyncio.gather(*(follow() for _ in range(3)))


async def test_a_killed_client_leaves_no_process_after_the_grace(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_DETACH_GRACE": "0.5"})
    script = "setsid sleep 4711 & (sleep 4711 &); while true; do echo x; sleep 0.1; done"
    client = _viewer(server, f"pyguard bash -c '{script}'")
    execution = _execution(client)
    wait_until(lambda: len(processes_of(server)) >= 4, "the command and its children")
    _kill(client)
    killed = time.monotonic()
    wait_until(lambda: not processes_of(server), "the end of every process")
    assert 0.4 < time.monotonic() - killed < 20
    error, complete = wait_until(lambda: _end(server, execution), "the end of the recording")
    assert error["rule"] == "limits.detach"
    assert complete["status"] == "cancelled"
    assert server.get("/health").json["active_connections"] == 0


async def test_attaching_within_the_grace_goes_on(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_DETACH_GRACE": "0.8"})
    client = _viewer(server, "pyguard bash -c 'for i in {1..20}; do echo $i; sleep 0.1; done'")
    execution = _execution(client)
    _kill(client)
    async with terminal(server) as other:
        replies = await other.attach(execution)
    assert_gapless(replies)
    assert output(replies) == "".join(f"{number}\n" for number in range(1, 21))
    assert replies[-1]["status"] == "succeeded"


async def test_without_a_grace_a_command_still_runs_while_it_is_watched(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_DETACH_GRACE": "0"})
    async with terminal(server) as client:
        assert (await client.run("pyguard sleep 0.3"))[-1]["status"] == "succeeded"
        execution = (await client.start("pyguard sleep 30"))["execution"]
    _, complete = wait_until(lambda: _end(server, execution), "the end of the recording")
    assert complete["status"] == "cancelled"


async def test_commands_that_wait_their_turn_end_with_their_connection(server: Server) -> None:
    async with terminal(server) as client:
        await client.send(command="pyguard sleep 0.3")
        await client.send(command="pyguard touch late.txt")
        execution = (await client.until("started"))[-1]["execution"]
    async with terminal(server) as client:
        assert (await client.attach(execution))[-1]["status"] == "succeeded"
        await client.run("pwd")
    assert not (server.workspace / "late.txt").exists()


def _viewer(server: Server, command: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", VIEWER, server.ws_url, command]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def _execution(client: "subprocess.Popen[str]") -> str:
    """The id of its command, once the first output of it has come."""
    assert client.stdout
    return str(next(m["execution"] for m in map(json.loads, client.stdout) if m["type"] == "stdout"))


def _kill(client: "subprocess.Popen[str]") -> None:
    client.send_signal(signal.SIGKILL)
    client.communicate()


def _end(server: Server, execution: str) -> list[dict[str, Any]] | None:
    messages = server.recording(execution)
    return messages[-2:] if messages[-1]["type"] == "complete" else None
