"""When the machine has no more to give: commands fail in order, and the service goes on as before."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from bench.hostile.clients import address, connect, many
from tests.client import assert_gapless, output, terminal
from tests.conftest import StartServer
from tests.e2e.as_user import as_one_user
from tests.e2e.open_gate import give, open_policy
from tests.serving import Server, processes_of, wait_until

LIMITED = "tests.e2e.limited"
BOMB = """
import os, time
def forks():
    try:
        return os.fork()
    except OSError:
        return -1
while (child := forks()) > 0: pass
if child == 0: time.sleep(600)
with open("big", "ab", buffering=0) as big:
    while True: big.write(bytes(1 << 16)); time.sleep(0.001)
"""


async def test_a_fork_bomb_does_not_turn_off_the_limit_of_the_workspace(
    start_server: StartServer, tmp_path: Path
) -> None:
    env = {"GATEPOST_WORKSPACE_LIMIT": str(8 << 20), **open_policy(tmp_path)}
    server = start_server(env, before=as_one_user(tmp_path, 120))
    give(server, "bomb.py", BOMB)
    async with terminal(server) as client:
        replies = await client.run("python3 bomb.py", 30)
        assert replies[-2]["rule"] == "limits.workspace"
        assert replies[-1]["signal"] == "SIGKILL"
        assert output(await client.run("cat bomb.py")) == BOMB  # what it took is given back


async def test_a_disk_that_takes_no_more_stops_the_command_and_the_viewer_is_told(start_server: StartServer) -> None:
    server = start_server(before=(LIMITED, "FSIZE", 2 << 20, 2 << 20))
    async with terminal(server) as client:
        replies = await client.run("pyguard bash -c 'seq -f %0200.0f 50000; sleep 30'")
        assert_gapless(replies)
        assert replies[-2]["rule"] == "recording.unavailable"
        assert (replies[-1]["status"], replies[-1]["exit_code"]) == ("failed", 125)
        assert await client.attach(replies[0]["execution"]) == replies
        assert output(await client.run("echo on")) == "on\n"
    assert processes_of(server) == []


WATCHES = """
import os, select, sys, time
for _ in range(PROCESSES):
    if os.fork() == 0:
        break
polls = [select.epoll() for _ in range(250)]
ends = [os.pipe()[0] for _ in range(350)]
try:
    for poll in polls:
        for end in ends:
            poll.register(end, 0)
except OSError:
    print("no more", flush=True)
time.sleep(600)
"""


async def test_a_command_leaves_the_service_descriptors_to_watch(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(open_policy(tmp_path), before=as_one_user(tmp_path))
    most = int(Path("/proc/sys/fs/epoll/max_user_watches").read_text())
    if most >= 100 * 250 * 350:
        pytest.skip("a command cannot use up what a user may watch here")
    give(server, "watches.py", WATCHES.replace("PROCESSES", str(most // (250 * 350))))
    async with terminal(server) as greedy:
        await greedy.start("python3 watches.py")
        await greedy.until("stdout", bound=60)
        for _ in range(3):
            async with terminal(server) as other:
                assert output(await other.run("echo on")) == "on\n"
        assert server.get("/readyz").status == 200
        await greedy.send(type="cancel")
        await greedy.until("complete", bound=90)  # the kernel takes long to forget that many
    assert processes_of(server) == []


async def test_a_full_workspace_stops_who_fills_it_and_lets_files_be_deleted(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_WORKSPACE_LIMIT": str(8 << 20)})
    async with terminal(server) as client:
        replies = await client.run("pyguard bash -c 'yes > big'")
        assert_gapless(replies)
        assert replies[-2]["rule"] == "limits.workspace"
        assert (replies[-1]["status"], replies[-1]["signal"]) == ("failed", "SIGKILL")
        size = (server.workspace / "big").stat().st_size
        replies = await client.run("pyguard bash -c 'echo more >> big'")
        assert replies[-1]["exit_code"] == 1
        assert "The workspace is full" in output(replies, "stderr")
        assert (server.workspace / "big").stat().st_size == size
        assert (await client.run("pyguard rm big"))[-1]["status"] == "succeeded"
        assert output(await client.run("pyguard bash -c 'echo on > small; cat small'")) == "on\n"
    assert processes_of(server) == []


async def test_without_a_place_for_recordings_nothing_runs(server: Server) -> None:
    away = server.recordings.rename(server.data_dir / "away")
    try:
        async with terminal(server) as client:
            [error] = await client.run("pyguard touch unrecorded.txt")
            assert error["rule"] == "recording.unavailable"
        assert server.get("/readyz").json["checks"]["recordings"] == "failed"
        [logged] = [line for line in map(json.loads, server.stdout.splitlines()) if line["event"] == "refused"]
        assert (logged["level"], logged["rule"]) == ("error", "recording.unavailable")
        assert "cannot be created" in logged["reason"]
    finally:
        away.rename(server.recordings)
    assert not (server.workspace / "unrecorded.txt").exists()
    async with terminal(server) as client:
        assert output(await client.run("echo on")) == "on\n"


def _answers(server: Server) -> bool:
    try:
        return server.get("/healthz").status == 200
    except OSError:
        return False


async def test_more_connections_than_descriptors_are_reported_in_one_line(start_server: StartServer) -> None:
    server = start_server(before=(LIMITED, "NOFILE", 40, 40))
    async with many([connect(server.url, address(number)) for number in range(100)]):
        await asyncio.to_thread(wait_until, lambda: "Connections cannot be accepted" in server.stdout, "the report", 30)
    await asyncio.to_thread(wait_until, lambda: _answers(server), "the service", 30)
    assert server.stdout.count("Connections cannot be accepted: Too many open files.") == 1
    assert "Traceback" not in server.logs


async def test_without_descriptors_commands_fail_and_nothing_leaks(start_server: StartServer) -> None:
    env = {"GATEPOST_CONCURRENT_PER_PRINCIPAL": "50", "GATEPOST_CONCURRENT_TOTAL": "50"}
    server = start_server(env, before=(LIMITED, "NOFILE", 50, 50))
    async with terminal(server) as client:
        await client.run("pwd")  # the server of the cage stays
        before = _descriptors(server)
        for _ in range(30):
            await client.send(type="run", command="pyguard sleep 8001")
        await client.send(type="ping", id="all read")
        said = await client.until("pong")
        assert any(message["type"] == "error" for message in said)
        async with asyncio.timeout(60):
            while server.get("/metrics").body.find(b"gatepost_executions_running 0.0") < 0:
                await client.send(type="cancel")
                await asyncio.sleep(0.05)
        assert processes_of(server) == []
        assert _descriptors(server) <= before + 1
        await client.send(type="ping", id="end")
        await client.until("pong", id="end")
        assert output(await client.run("echo on")) == "on\n"


def _descriptors(server: Server) -> int:
    """How many it has, without those of the database, which each thread opens when it first asks it something."""
    found = map(os.path.realpath, Path(f"/proc/{server.pid}/fd").iterdir())
    return sum("gatepost.db" not in each for each in found)
