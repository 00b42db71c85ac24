"""When the machine has no more to give: commands fail in order, and the service goes on as before."""

import asyncio
import json
import os
import sys

from bench.hostile.clients import address, connect, many
from tests.client import assert_gapless, output, terminal
from tests.conftest import StartServer
from tests.serving import Server, processes_of, wait_until

SERVE = f"exec {sys.executable} -m backend serve"


async def test_a_disk_that_takes_no_more_stops_the_command_and_the_viewer_is_told(start_server: StartServer) -> None:
    server = start_server(command=["bash", "-c", f"ulimit -f 2048; {SERVE}"])  # blocks of 1 KiB for each file
    async with terminal(server) as client:
        replies = await client.run("pyguard bash -c 'seq 500000; sleep 30'")
        assert_gapless(replies)
        assert replies[-2]["rule"] == "recording.unavailable"
        assert (replies[-1]["status"], replies[-1]["exit_code"]) == ("failed", 125)
        assert await client.attach(replies[0]["execution"]) == replies
        assert output(await client.run("echo on")) == "on\n"
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
    server = start_server(command=["bash", "-c", f"ulimit -n 50; {SERVE}"])
    async with many([connect(server.url, address(number)) for number in range(100)]):
        wait_until(lambda: "Connections cannot be accepted" in server.stdout, "the report")
    wait_until(lambda: _answers(server), "the service")
    assert server.stdout.count("Connections cannot be accepted: Too many open files.") == 1
    assert "Traceback" not in server.logs


async def test_without_descriptors_commands_fail_and_nothing_leaks(start_server: StartServer) -> None:
    env = {"GATEPOST_CONCURRENT_PER_PRINCIPAL": "50", "GATEPOST_CONCURRENT_TOTAL": "50"}
    server = start_server(env, command=["bash", "-c", f"ulimit -n 50; {SERVE}"])
    async with terminal(server) as client:
        before = _descriptors(server)
        for _ in range(30):
            await client.send(type="run", command="pyguard sleep 8001")
        await client.send(type="ping", id="all read")
        said = await client.until("pong")
        assert any(message["type"] == "error" for message in said)
        async with asyncio.timeout(10):
            while server.get("/metrics").body.find(b"gatepost_executions_running 0.0") < 0:
                await client.send(type="cancel")
                await asyncio.sleep(0.05)
        assert processes_of(server) == []
        assert _descriptors(server) <= before + 1
        await client.send(type="ping", id="end")
        await client.until("pong", id="end")
        assert output(await client.run("echo on")) == "on\n"


def _descriptors(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))
