"""Three servers, each with a data folder of its own, on one PostgreSQL and one Redis: any answers for any execution."""

import asyncio
import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from backend.core.execution.ownership import LEASE
from tests.accounts import begin, client, gatepost
from tests.client import terminal
from tests.e2e.services import Service, clients, messages_of, running_service, until_said
from tests.storage.conftest import postgresql

__all__ = ["postgresql"]

COUNT = 3
LOST_BOUND = LEASE + 15.0  # seconds


@pytest.fixture(scope="module")
def service(postgresql: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    postgresql.psql("create database apart")
    with running_service(tmp_path_factory.mktemp("apart"), postgresql.get_uri(database="apart"), COUNT) as running:
        yield running


async def test_any_server_follows_reads_feeds_signals_and_cancels(service: Service) -> None:
    async with clients(service) as (first, second, third):
        # The signal reaches every process; the one that sleeps ignores it, and so the script goes on after its trap.
        sleeper = '(trap "" USR1; echo up; exec sleep 60) &'
        script = f'{sleeper} trap "echo usr1" USR1; read line; echo got $line; wait; wait'
        execution = await begin(first, script, stdin=True)
        following = [asyncio.create_task(messages_of(api, execution)) for api in (first, second, third)]
        await until_said(service.servers[0], execution)
        place = f"/api/executions/{execution}"
        assert (await second.get(f"{place}/output")).json()["data"] == "up\n"
        assert (await second.post(f"{place}/stdin", json={"data": "word\n"})).status_code == 202
        await until_said(service.servers[0], execution, "got word")
        assert (await third.post(f"{place}/signal", json={"signal": "USR1"})).status_code == 202
        await until_said(service.servers[0], execution, "usr1")
        assert (await third.post(f"{place}/cancel")).json() == {"id": execution, "status": "cancelling"}
        seen = await asyncio.gather(*following)
        assert seen[0] == seen[1] == seen[2]
        assert [message["seq"] for message in seen[1] if "line" not in message][-1] == seen[1][-1]["seq"]
        assert seen[1][-1]["status"] == "cancelled"
        for api in (second, third):
            part = (await api.get(f"{place}/output")).json()
            assert (part["data"].startswith("up\ngot word\nusr1\n"), part["completed"]) == (True, True)
            recording = await api.get(f"{place}/recording")
            assert recording.content == (service.servers[0].recordings / f"{execution}.ndjson").read_bytes()


async def test_what_nothing_receives_is_told_from_afar_too(service: Service) -> None:
    async with clients(service) as (first, second, _):
        execution = await begin(first, "echo up; sleep 60")
        await until_said(service.servers[0], execution)
        place = f"/api/executions/{execution}"
        answer = await second.post(f"{place}/stdin", json={"data": "x"})
        assert (answer.status_code, answer.json()["rule"]) == (409, "stdin.closed")
        answer = await second.post(f"{place}/resize", json={"columns": 80, "rows": 24})
        assert (answer.status_code, answer.json()["rule"]) == (409, "terminal.none")
        await second.post(f"{place}/cancel")
        assert (await messages_of(second, execution))[-1]["status"] == "cancelled"
        answer = await second.post(f"{place}/signal", json={"signal": "INT"})
        assert (answer.status_code, answer.json()["rule"]) == (409, "execution.not_running")
        assert (await second.post(f"{place}/cancel")).json() == {"id": execution, "status": "cancelled"}


async def test_a_terminal_attaches_to_an_execution_of_another_server(service: Service) -> None:
    async with terminal(service.servers[0]) as owner, terminal(service.servers[1]) as other:
        execution = (await owner.start("cat"))["execution"]
        await other.send(type="attach", execution=execution)
        await other.until("started")
        await other.send(type="stdin", data="hello\n")
        assert (await other.until("stdout"))[-1]["line"] == "hello"
        await other.send(type="stdin_close")
        assert (await other.until("complete"))[-1]["status"] == "succeeded"
        assert (await owner.until("complete"))[-1]["status"] == "succeeded"


async def test_long_output_comes_whole_through_another_server(service: Service) -> None:
    async with clients(service) as (first, second, _):
        execution = await begin(first, "seq 1 200000")
        seen = await messages_of(second, execution)
        lines = [line for message in seen if message["type"] == "stdout" for line in message["lines"]]
        assert lines == [str(number) for number in range(1, 200_001)]
        middle = next(message for message in seen[len(seen) // 2 :] if message["type"] == "stdout")
        rest = await messages_of(second, execution, middle["seq"] + 3)
        assert rest[0]["seq"] == middle["seq"] + 4
        part = (await second.get(f"/api/executions/{execution}/output", params={"offset": 1_000_000})).json()
        assert part["total_size"] == sum(len(line) + 1 for line in lines)


async def test_a_server_that_stops_sends_the_end_of_what_it_ran_to_all_viewers(service: Service) -> None:
    async with clients(service) as (_, second, third):
        execution = await begin(third, "echo up; sleep 7301")
        await until_said(service.servers[2], execution)
        async with terminal(service.servers[2]) as visitor:
            own = (await visitor.start("cat"))["execution"]
            views = [(second, execution), (third, execution), (second, own)]
            begun = [asyncio.Event() for _ in views]
            following = [
                asyncio.create_task(messages_of(api, id, begun=event))
                for (api, id), event in zip(views, begun, strict=True)
            ]
            async with asyncio.timeout(60):
                for event in begun:
                    await event.wait()
            await asyncio.to_thread(service.servers[2].stop)
            end = await visitor.until("complete")
        seen = await asyncio.gather(*following)
    assert seen[0] == seen[1]
    for messages in (*seen, end):
        assert [(message["type"], message.get("rule")) for message in messages[-2:]] == [
            ("error", "server.stopping"),
            ("complete", None),
        ]
        assert messages[-1]["status"] == "cancelled"
        assert messages[-1]["seq"] == messages[-2]["seq"] + 1
    service.start(2)


async def test_a_server_that_dies_loses_what_it_ran_when_its_lease_ends(service: Service) -> None:
    async with clients(service) as (_, second, third):
        execution = await begin(third, "echo up; sleep 7302")
        await until_said(service.servers[2], execution)
        following = asyncio.create_task(messages_of(second, execution))
        service.servers[2].kill()
        answer = await second.post(f"/api/executions/{execution}/cancel")
        assert (answer.status_code, answer.json()["rule"]) == (503, "execution.unreachable")
        async with asyncio.timeout(LOST_BOUND):
            seen = await following
        assert [message["type"] for message in seen[-2:]] == ["error", "complete"]
        assert seen[-1]["status"] == "lost"
        assert [message["seq"] for message in seen] == list(range(1, len(seen) + 1))
        found = (await second.get(f"/api/executions/{execution}")).json()
        assert found["status"] == "lost"
        answer = await second.get(f"/api/executions/{execution}/output")
        assert (answer.status_code, answer.json()["rule"]) == (503, "execution.unreachable")
    server = service.start(2)
    async with client(server, service.token) as third, client(service.servers[1], service.token) as second:
        assert (await messages_of(third, execution))[-1]["status"] == "lost"
        assert (await second.get(f"/api/executions/{execution}/output")).json()["data"] == "up\n"


async def test_a_server_that_was_frozen_does_not_overwrite_what_was_recorded(service: Service) -> None:
    """Its lease ends while it cannot renew it; afterwards it stops what it ran, and the first ending stays."""
    async with clients(service) as (_, second, third):
        execution = await begin(third, "echo up; sleep 60")
        await until_said(service.servers[2], execution)
        service.servers[2].process.send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(LOST_BOUND):
                while (await second.get(f"/api/executions/{execution}")).json()["status"] == "running":
                    await asyncio.sleep(0.2)
        finally:
            service.servers[2].process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            await messages_of(third, execution)
        assert (await second.get(f"/api/executions/{execution}")).json()["status"] == "lost"
    env = {**service.env, "GATEPOST_DATA_DIR": str(service.folder / "0" / "data")}
    exported = gatepost(service.folder / "0", "audit", "export", env=env).stdout.splitlines()[1:-1]
    events = [json.loads(json.loads(line)["body"]) for line in exported]
    kinds = [event["kind"] for event in events if event.get("execution") == execution]
    assert kinds == ["submitted", "started", "lost"]
