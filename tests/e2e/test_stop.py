"""The server stops in order, and what a crash cut off is closed afterwards."""

import asyncio
import signal
import time

import pytest
from websockets.exceptions import ConnectionClosed

from tests.client import Terminal, assert_gapless, output, terminal
from tests.conftest import StartServer
from tests.serving import clean_up, processes_of, wait_until

STUBBORN = 'trap "" TERM; echo up; while true; do sleep 0.1; done # stub6001'
DETACHED = "(setsid sleep 6002 &); echo up; sleep 6002"
PLAIN = "echo up; sleep 6003"


async def _begin(client: Terminal, script: str) -> str:
    await client.send(type="run", command=f"pyguard bash -c '{script}'")
    return str((await client.until("stdout"))[-1]["execution"])


async def test_sigterm_closes_sockets_with_1012_and_leaves_nothing(start_server: StartServer) -> None:
    server = start_server()
    async with terminal(server) as client, terminal(server) as other:
        executions = [await _begin(client, script) for script in (STUBBORN, DETACHED, PLAIN)]
        began = time.monotonic()
        await asyncio.to_thread(server.stop)
        assert time.monotonic() - began < 10
        for socket in (client.socket, other.socket):
            with pytest.raises(ConnectionClosed):
                while True:
                    await asyncio.wait_for(socket.recv(), 30)
            assert socket.close_code == 1012
    assert processes_of(server, "sleep 600") + processes_of(server, "stub6001") == []
    for execution in executions:
        messages = server.recording(execution)
        assert_gapless(messages)
        assert [message["type"] for message in messages[-2:]] == ["error", "complete"]
        assert messages[-2]["rule"] == "server.stopping"
        assert messages[-1]["status"] == "cancelled"


async def test_a_server_that_was_told_to_stop_exits_with_0(start_server: StartServer) -> None:
    server = start_server()
    async with terminal(server) as client:
        await client.run("pwd")
    assert await asyncio.to_thread(server.stop) == 0


async def test_ctrl_c_ends_the_server_without_a_traceback(start_server: StartServer) -> None:
    server = start_server()
    server.process.send_signal(signal.SIGINT)
    await asyncio.to_thread(server.process.wait, 10)
    assert "Traceback" not in server.logs


async def test_a_viewer_that_does_not_read_holds_no_stop_up(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_OUTPUT_LIMIT": "100000000"})
    async with terminal(server, max_queue=1) as client:
        await client.send(type="run", command="pyguard yes")
        wait_until(lambda: any(p.stat().st_size > 2**22 for p in server.recordings.iterdir()), "a full socket")
        began = time.monotonic()
        await asyncio.to_thread(server.stop)
        assert time.monotonic() - began < 10
        assert processes_of(server) == []
        client.socket.transport.abort()


async def test_what_a_crash_cut_off_is_lost_and_can_still_be_watched(start_server: StartServer) -> None:
    server = start_server()
    async with terminal(server) as client:
        await client.send(type="run", command="pyguard bash -c 'seq 5000; echo up; sleep 6004'")
        execution = (await client.until("stdout", line="up"))[-1]["execution"]
        server.kill()
    # Until the kernel confines commands, they outlive a server that is killed.
    clean_up(processes_of(server, "sleep 6004"))
    before = server.recording(execution)
    server = start_server()
    async with terminal(server) as client:
        replies = await client.attach(execution)
        assert_gapless(replies)
        assert output(replies) == output(before)
        assert replies[-2]["rule"] == "server.lost"
        assert (replies[-1]["status"], replies[-1]["exit_code"]) == ("lost", None)
        assert await client.attach(execution, after_seq=5000) == replies[5000:]
        assert await client.attach(execution) == replies
    assert server.recording(execution)[-1] == replies[-1]


@pytest.mark.parametrize(
    "tail", [b'{"type":"stdout","execution":"', b'{"type":"std', b"\0" * 40], ids=["head", "type", "zeros"]
)
async def test_a_line_that_a_crash_left_unfinished_is_taken_off(start_server: StartServer, tail: bytes) -> None:
    server = start_server()
    async with terminal(server) as client:
        await client.send(type="run", command="pyguard bash -c 'seq 10; sleep 6005'")
        execution = (await client.until("stdout", line="10"))[-1]["execution"]
        server.kill()
    clean_up(processes_of(server, "sleep 6005"))
    with (server.recordings / f"{execution}.ndjson").open("ab") as file:
        file.write(tail)
    server = start_server()
    async with terminal(server) as client:
        replies = await client.attach(execution)
    assert_gapless(replies)
    assert output(replies) == "".join(f"{number}\n" for number in range(1, 11))
    assert replies[-1]["status"] == "lost"
