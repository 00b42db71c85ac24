"""The published page, which knows `waking ready stdout error complete` only, works unchanged."""

import asyncio
import signal

import pytest
from websockets.exceptions import ConnectionClosed

from tests.client import terminal
from tests.conftest import StartServer
from tests.e2e.old_client import OldClient
from tests.serving import ROOT, SERVE, UVICORN, Server

WAYS = {"serve": SERVE, "uvicorn": UVICORN, "old instructions": ("uvicorn", "server:app", "--port", "PORT")}


def bash(script: str) -> str:
    return f"pyguard bash -c '{script}'"


class TestOutput:
    """Everything that a program writes is shown, line by line."""

    async def test_standard_error_is_shown(self, server: Server) -> None:
        page = OldClient()
        async with page.on(server):
            assert await page.run("ls -l nope") == ["ls: cannot access 'nope': No such file or directory"]
            shown = await page.run(bash("echo out; echo wrong >&2; echo more"))
            assert sorted(shown) == ["more", "out", "wrong"]  # the streams have no order between them

    async def test_a_line_that_comes_in_parts_is_one_line(self, server: Server) -> None:
        page = OldClient()
        async with page.on(server):
            assert await page.run(bash("printf abc; sleep .4; printf def")) == ["abcdef"]
            assert await page.run(bash("printf abc; sleep .4; printf def >&2; sleep .4; echo ghi")) == ["abcghi", "def"]

    async def test_a_prompt_is_shown_before_its_line_ends(self, server: Server) -> None:
        page = OldClient()
        async with page.on(server):
            await page.send(bash('printf "Name? "; sleep 30'))
            await page.until(lambda: page.shown == ["Name? "])
            assert page.busy

    async def test_of_progress_the_latest_is_shown(self, server: Server) -> None:
        page = OldClient()
        async with page.on(server):
            steps = 'for i in 10 20 30; do printf "$i%%\\r"; sleep .15; done; echo done'
            assert await page.run(bash(steps)) == ["done"]

    async def test_a_client_with_a_subprotocol_gets_what_it_got_before(self, server: Server) -> None:
        async with terminal(server, "gatepost.v1.json") as client:
            replies = await client.command(bash("printf abc; sleep .4; echo wrong >&2; echo def"))
        found = [(each["type"], each["line"]) for each in replies if "line" in each]
        assert found == [("stdout", "abc"), ("stderr", "wrong"), ("stdout", "def")]
        assert not any("stream" in each for each in replies)


class TestStop:
    """However the server ends, the page can be typed in afterwards."""

    @pytest.mark.parametrize("way", WAYS)
    async def test_the_end_of_a_command_comes_before_the_close(self, start_server: StartServer, way: str) -> None:
        cwd = ROOT / "backend" if way == "old instructions" else ROOT
        env = {} if way == "serve" else {"PYTHONPATH": ""}
        server = start_server(env, program=WAYS[way], cwd=cwd)
        page = OldClient()
        async with page.on(server):
            await page.send(bash('printf "half a line"; sleep 30'))
            await page.until(lambda: page.shown)
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            await page.until_closed()
            await stopping
        assert page.shown == ["half a line", "❌ The command was stopped because the server is stopping."]
        assert (page.busy, page.close_code) == (False, 1012)

    @pytest.mark.parametrize("way", ["serve", "uvicorn"])
    async def test_no_command_is_taken_while_the_server_stops(self, start_server: StartServer, way: str) -> None:
        server = start_server(program=WAYS[way], cwd=ROOT)
        async with terminal(server) as client, terminal(server) as other:
            await client.send(command=bash('trap "echo stopping" TERM; echo up; sleep 30 & wait; sleep 30'))
            await client.until("stdout", line="up")
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            await client.until("stdout", line="stopping")
            [refused] = await other.command("pwd")
            assert refused["rule"] == "server.stopping"
            assert [each["type"] for each in await client.until("complete")][-2:] == ["error", "complete"]
            await stopping

    async def test_after_a_crash_the_page_takes_input_again(self, start_server: StartServer) -> None:
        server = start_server()
        page = OldClient()
        async with page.on(server):
            await page.send(bash("echo up; sleep 30"))
            await page.until(lambda: page.shown)
            server.kill()
            await page.until_closed()
        assert page.busy
        server = start_server()
        async with page.on(server):
            assert page.takes_input
            assert await page.run("echo again") == ["again"]

    async def test_a_program_gets_nothing_before_ready(self, server: Server) -> None:
        """A script reads up to the first `complete`: for it nothing may come that it did not ask for."""
        async with terminal(server) as client:
            assert {each["type"] for each in client.greeting} <= {"waking", "ready"}
            await client.quiet()


async def test_at_another_origin_that_is_listed_everything_works(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_ALLOWED_ORIGINS": "https://ops.example.org"})
    page = OldClient("https://ops.example.org")
    async with page.on(server):
        assert await page.run("echo here") == ["here"]
        assert page.fetch(server, "/health")["active_connections"] == 1
    assert page.fetch(server, "/")["status"] == "running"
    with pytest.raises(PermissionError):
        OldClient("https://evil.test").fetch(server, "/health")


async def test_a_signal_that_comes_twice_is_one_stop(start_server: StartServer) -> None:
    """A platform sends one to all processes, and a parent process passes its own on."""
    server = start_server()
    page = OldClient()
    async with page.on(server):
        await page.send(bash('trap "" TERM; echo up; while :; do sleep .1; done'))
        await page.until(lambda: page.shown)
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGTERM)
        await page.until_closed()
    assert (page.shown[-1], page.busy) == ("❌ The command was stopped because the server is stopping.", False)


async def test_a_second_ctrl_c_does_not_wait_for_what_runs(start_server: StartServer) -> None:
    server = start_server()
    async with terminal(server) as client:
        await client.send(command=bash('trap "echo stopping" TERM; echo up; while :; do sleep .1; done'))
        await client.until("stdout", line="up")
        server.process.send_signal(signal.SIGINT)
        await client.until("stdout", line="stopping")
        server.process.send_signal(signal.SIGINT)
        with pytest.raises(ConnectionClosed):
            await client.until("complete")
