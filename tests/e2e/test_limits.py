"""How often and how many: for a connection, for its address, in all."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from websockets.exceptions import InvalidStatus

from tests.client import terminal
from tests.conftest import StartServer
from tests.serving import processes_of, wait_until

TIGHT = {"GATEPOST_COMMAND_RATE": "10/5 minutes"}


async def test_ten_commands_in_five_minutes_and_then_a_refusal_that_says_when(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_COMMAND_RATE": ""})  # the default
    async with terminal(server) as client:
        for _ in range(9):
            assert (await client.command("echo x"))[-1]["type"] == "complete"
        assert (await client.command("rm x"))[-1]["rule"] == "blocked.rm"
        [error] = await client.command("echo x")
        assert error["rule"] == "limits.rate"
        assert 290 < error["retry_after"] <= 300
        assert "10 in 5 minutes" in error["message"]
        assert "limits.rate" in error["message"]
        [error] = await client.run("echo x", id="mine")
        assert (error["rule"], error["id"]) == ("limits.rate", "mine")


async def test_connecting_again_does_not_reset_the_rate(start_server: StartServer) -> None:
    server = start_server(TIGHT)
    for _ in range(10):
        async with terminal(server) as client:
            assert (await client.command("echo x"))[-1]["type"] == "complete"
    async with terminal(server) as client:
        assert (await client.command("echo x"))[-1]["rule"] == "limits.rate"


async def test_a_refused_line_of_any_length_counts(start_server: StartServer) -> None:
    server = start_server(TIGHT)
    async with terminal(server) as client:
        for _ in range(10):
            assert (await client.command("echo " + "x" * 2000))[-1]["rule"] == "limits.characters"
        assert (await client.command("echo x"))[-1]["rule"] == "limits.rate"


@pytest.mark.parametrize("hops", [0, 1])
async def test_an_invented_forwarded_address_does_not_reset_the_rate(start_server: StartServer, hops: int) -> None:
    server = start_server({**TIGHT, "TRUSTED_PROXY_HOPS": str(hops)})
    proxy = ", 203.0.113.7" if hops else ""  # what the one trusted proxy appends
    for number in range(10):
        headers = {"X-Forwarded-For": f"198.51.100.{number}{proxy}"}
        async with terminal(server, additional_headers=headers) as client:
            assert (await client.command("echo x"))[-1]["type"] == "complete"
    async with terminal(server, additional_headers={"X-Forwarded-For": f"192.0.2.1{proxy}"}) as client:
        assert (await client.command("echo x"))[-1]["rule"] == "limits.rate"


async def test_two_clients_behind_one_trusted_proxy_count_apart(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_COMMAND_RATE": "1/minute", "TRUSTED_PROXY_HOPS": "1"})
    for address in ("203.0.113.7", "203.0.113.8"):
        async with terminal(server, additional_headers={"X-Forwarded-For": address}) as client:
            assert (await client.command("echo x"))[-1]["type"] == "complete"
            assert (await client.command("echo x"))[-1]["rule"] == "limits.rate"


async def test_so_many_run_at_once_for_each_connection_and_in_all(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_CONCURRENT_PER_PRINCIPAL": "2", "GATEPOST_CONCURRENT_TOTAL": "3"})
    async with terminal(server) as first, terminal(server) as second:
        await first.start("pyguard sleep 7001")
        await first.start("pyguard sleep 7001")
        assert (await first.run("pwd"))[-1]["rule"] == "limits.concurrency"
        await second.start("pyguard sleep 7001")
        error = (await second.run("pwd"))[-1]
        assert (error["rule"], error["retry_after"]) == ("limits.busy", 1.0)
        wait_until(lambda: len([p for p in processes_of(server) if p.command == "sleep 7001"]) == 3, "three commands")
        await first.send(type="cancel")
        await first.reply()
        assert (await second.run("pwd"))[-1]["type"] == "complete"


async def test_sixteen_commands_wait_and_the_next_is_refused(start_server: StartServer) -> None:
    server = start_server()
    async with terminal(server) as client:
        await client.send(command="pyguard sleep 7002")
        await client.until("started")
        for number in range(17):
            await client.send(command=f"echo {number}")
        error = await client.receive()
        assert (error["rule"], error["command"]) == ("limits.queue", "echo 16")
        await client.send(type="cancel")
        ends = [(await client.reply())[-1]["status"] for _ in range(17)]
        assert ends == ["cancelled"] + ["succeeded"] * 16


async def test_connections_over_the_number_of_an_address_get_429_before_the_handshake(
    start_server: StartServer,
) -> None:
    server = start_server({"GATEPOST_CONNECTIONS_PER_ADDRESS": "3"})
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(terminal(server)) for _ in range(3)]
        with pytest.raises(InvalidStatus) as refused:
            async with terminal(server):
                pass
        assert refused.value.response.status_code == 429
        assert b"limits.connections" in refused.value.response.body
        assert server.get("/health").json["active_connections"] == 3
        await clients[0].socket.close()
        async with asyncio.timeout(30):
            while server.get("/health").json["active_connections"] == 3:
                await asyncio.sleep(0.01)
        async with terminal(server) as client:
            assert (await client.command("pwd"))[-1]["type"] == "complete"


async def test_connections_over_the_number_of_the_server_get_429_too(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_CONNECTIONS_TOTAL": "1", "TRUSTED_PROXY_HOPS": "1"})
    async with terminal(server, additional_headers={"X-Forwarded-For": "203.0.113.7"}):
        with pytest.raises(InvalidStatus) as refused:
            async with terminal(server, additional_headers={"X-Forwarded-For": "203.0.113.8"}):
                pass
    assert refused.value.response.status_code == 429


async def test_a_refused_handshake_takes_no_place(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_CONNECTIONS_PER_ADDRESS": "1"})
    for _ in range(3):
        with pytest.raises(InvalidStatus):
            async with terminal(server, origin="http://evil.test"):
                pass
    async with terminal(server) as client:
        assert client.greeting


async def test_a_connection_watches_so_many_and_no_more(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_CONCURRENT_PER_PRINCIPAL": "40", "GATEPOST_CONCURRENT_TOTAL": "40"})
    async with terminal(server) as owner, terminal(server) as viewer:
        started = [await owner.start("pyguard sleep 600") for _ in range(9)]
        for message in started:
            await viewer.send(type="attach", execution=message["execution"])
        await viewer.send(type="ping", id="end")
        said = await viewer.until("pong", id="end")
        assert [message["rule"] for message in said if message["type"] == "error"] == ["limits.watching"]
