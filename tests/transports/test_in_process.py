"""What fronts answer when a token, a profile or another server is not what it was."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from backend.application.submission import CommandSpec
from backend.core.audit.events import Kind
from backend.core.execution.registry import Execution
from backend.core.identity import Permission
from backend.core.recording.reader import Send
from backend.storage.memory.recordings import MemoryRecording
from backend.transports import terminal_socket
from tests.client import output, terminal
from tests.recipes.house import VISITOR, House, build, shared
from tests.transports.in_process import Front, served


@dataclass
class Servers:
    """`runs` has run what a test looks at; `front` listens for another server, `asked`."""

    runs: House
    asked: House
    front: Front

    async def recorded(self) -> str:
        """The id of a command of a visitor that has ended."""
        started = await self.runs.service.submit(VISITOR, CommandSpec("echo one", detached=True))
        assert isinstance(started, Execution)
        assert started.task
        await started.task
        return started.id

    async def download(self, id: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=30, verify=False) as client:
            return await client.get(f"{self.front.url}/api/executions/{id}/recording")


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    common = shared()
    runs, asked = build(common), build(common)
    async with asked.joined(), served(common, asked) as front:
        yield Servers(runs, asked, front)


class TestDownload:
    async def test_a_recording_arrives_from_the_server_that_stores_it(self, servers: Servers) -> None:
        id = await servers.recorded()
        async with servers.runs.joined():
            answer = await servers.download(id)
        assert (answer.status_code, len(answer.text.splitlines())) == (200, 3)

    async def test_one_whose_server_is_away_is_a_problem(self, servers: Servers) -> None:
        answer = await servers.download(await servers.recorded())
        assert (answer.status_code, answer.json()["rule"]) == (503, "execution.unreachable")
        assert "content-disposition" not in answer.headers
        assert answer.headers["retry-after"]

    async def test_one_that_was_deleted_is_unknown(self, servers: Servers) -> None:
        id = await servers.recorded()
        found = servers.runs.recordings.find(id)
        assert found
        found.discard()
        async with servers.runs.joined():
            answer = await servers.download(id)
        assert (answer.status_code, answer.json()["rule"]) == (404, "execution.unknown")

    async def test_one_that_cannot_be_read_further_is_not_taken_for_complete(
        self, servers: Servers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        id = await servers.recorded()
        copy = MemoryRecording.copy

        async def fail(recording: MemoryRecording, send: Send, begin: int = 0, end: int | None = None) -> int:
            await copy(recording, send, begin, end)
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(MemoryRecording, "copy", fail)
        async with servers.runs.joined():
            with pytest.raises(httpx.RemoteProtocolError):
                await servers.download(id)


class TestTerminal:
    async def test_an_account_whose_profile_is_missing_gets_the_reason(self, servers: Servers) -> None:
        headers = {"Authorization": f"Bearer {await servers.front.token('ann', profile='gone')}"}
        async with terminal(servers.front, greeted=False, additional_headers=headers) as client:
            refusal = await client.receive()
            assert refusal["rule"] == "target.unknown"
            assert "'gone'" in refusal["reason"]
            with pytest.raises(ConnectionClosed):
                await client.receive()
            assert (client.socket.close_code, client.socket.close_reason) == (4001, "target.unknown")
        event = servers.front.audit.events[-1]
        assert (event.kind, event.actor, event.fields["rule"]) == (Kind.REJECTED, "user:ann", "target.unknown")

    async def test_a_token_that_may_only_execute_gets_the_output_of_its_own_command_to_the_end(
        self, servers: Servers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(terminal_socket, "RECHECK_EVERY", 0.01)
        headers = {"Authorization": f"Bearer {await servers.front.token('bot', Permission.EXECUTE)}"}
        async with terminal(servers.front, additional_headers=headers) as client:
            await client.send(type="run", command="cat 9")
            begun = await client.until("stdout")
            await servers.front.checks.until(3)
            await client.send(type="cancel")
            end = await client.until("complete")
        assert output(begun) == "9\n"
        assert [message["type"] for message in end] == ["complete"]
        assert end[0]["status"] == "cancelled"
