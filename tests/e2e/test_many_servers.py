"""Four server processes on one data folder, one PostgreSQL and one Redis: together they are one service."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import httpx
import pytest

from backend.core.recording.messages import Complete
from tests.accounts import begin, client, gatepost, new_token
from tests.conftest import StartServer
from tests.e2e.services import until_said
from tests.redis_server import running_redis
from tests.serving import ANY_PROGRAM, Server, files_below, processes_of, start, wait_until
from tests.storage.conftest import postgresql

__all__ = ["postgresql"]

COUNT = 4
ENV = {
    **ANY_PROGRAM,
    "GATEPOST_CHECK_RATE": "30/minute",
    "GATEPOST_API_RATE": "100000/minute",
    "GATEPOST_CONCURRENT_PER_PRINCIPAL": "100",
    "GATEPOST_CONCURRENT_TOTAL": "100",
}


@dataclass
class Service:
    """The servers, and what they share."""

    folder: Path
    env: dict[str, str]
    servers: list[Server]

    def token(self, name: str) -> str:
        return new_token(self.folder, name, self.env)

    def clients(self, token: str) -> list[httpx.AsyncClient]:
        return [client(server, token) for server in self.servers]


@pytest.fixture(scope="module")
def service(postgresql: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("servers")
    folder.chmod(0o711)
    postgresql.psql("create database many_servers")
    with running_redis() as redis:
        env = {**ENV, "DATABASE_URL": postgresql.get_uri(database="many_servers"), "REDIS_URL": redis.url}
        places = [folder / str(number) for number in range(COUNT)]
        for place in places:
            place.mkdir()
        shared = {**env, "GATEPOST_DATA_DIR": str(folder / "data")}
        # Two at once, for they are ready only so late where there are few processors.
        with ThreadPoolExecutor(2) as threads:
            servers = list(threads.map(lambda place: start(place, shared), places))
        for server in servers:
            server.data_dir = folder / "data"
        yield Service(folder, env, servers)
        for server in servers:
            server.stop()


async def together(clients: list[httpx.AsyncClient], count: int, ask: Any) -> list[httpx.Response]:
    """Ask all servers at once, `count` times in all."""
    answers = await asyncio.gather(*(ask(clients[number % len(clients)]) for number in range(count)))
    for each in clients:
        await each.aclose()
    return list(answers)


async def test_a_rate_of_an_account_is_shared_exactly(service: Service) -> None:
    body = {"command": "pyguard true", "dry_run": True}
    clients = service.clients(service.token("rate"))
    answers = await together(clients, 60, lambda api: api.post("/api/executions", json=body))
    assert Counter(answer.status_code for answer in answers) == {202: 30, 429: 30}
    assert {answer.json()["rule"] for answer in answers if answer.status_code == 429} == {"limits.rate"}


async def test_of_requests_with_one_key_one_starts_one_process(service: Service) -> None:
    body = {"command": "pyguard sleep 7101"}
    clients = service.clients(token := service.token("once"))
    key = {"Idempotency-Key": "k"}
    answers = await together(clients, 20, lambda api: api.post("/api/executions", json=body, headers=key))
    assert {answer.status_code for answer in answers} == {202}
    [execution] = {answer.json()["id"] for answer in answers}

    def sleeping() -> list[int]:
        found = {process.pid: process for server in service.servers for process in processes_of(server)}
        return [pid for pid, process in found.items() if process.command == "sleep 7101"]

    wait_until(sleeping, "the process")
    assert len(sleeping()) == 1
    async with client(service.servers[0], token) as api:
        entries = (await api.get("/api/executions")).json()["executions"]
    assert [entry["id"] for entry in entries] == [execution]
    for each in service.clients(token):
        async with each:
            await each.post(f"/api/executions/{execution}/cancel")
    wait_until(lambda: not sleeping(), "the end")


async def test_one_key_answers_everywhere_with_the_output_of_the_one_execution(service: Service) -> None:
    token = service.token("output")
    async with client(service.servers[0], token) as api:
        project = (await api.post("/api/projects", json={"name": "p"})).json()["id"]
    body = {"project_id": project, "command": "date +%s.%N"}
    key = {"Idempotency-Key": "k"}
    clients = service.clients(token)
    answers = await together(clients, 8, lambda api: api.post("/api/agent/execute", json=body, headers=key))
    assert {answer.status_code for answer in answers} == {200}, answers[0].text
    assert len({(answer.json()["command_id"], answer.json()["stdout"]) for answer in answers}) == 1
    assert answers[0].json()["success"]


async def test_attempts_to_log_in_are_shared(service: Service) -> None:
    form = {"username": "nobody", "password": "wrong password"}
    clients = service.clients("")
    for each in clients:
        del each.headers["authorization"]
    answers = await together(clients, 16, lambda api: api.post("/api/auth/token", data=form))
    assert Counter(answer.status_code for answer in answers) == {401: 10, 429: 6}


async def test_what_one_runs_another_lists_reads_and_follows_to_its_end(service: Service) -> None:
    token = service.token("reader")
    here, there = service.servers[:2]
    async with client(here, token) as first, client(there, token) as second:
        execution = await begin(first, "echo one; read; echo two", stdin=True)
        await until_said(here, execution, "one")
        assert (await second.get(f"/api/executions/{execution}")).json()["status"] == "running"
        assert (await second.get("/api/executions")).json()["executions"][0]["id"] == execution
        part = (await second.get(f"/api/executions/{execution}/output")).json()
        assert (part["data"], part["completed"]) == ("one\n", False)
        async with second.stream("GET", f"/api/executions/{execution}/events") as stream:
            lines = stream.aiter_lines()
            async for line in lines:
                if "one" in line:
                    break
            answer = await second.post(f"/api/executions/{execution}/stdin", json={"data": "go\n", "close": True})
            assert answer.status_code == 202, answer.text
            rest = [json.loads(line[6:]) async for line in lines if line.startswith("data: ")]
        assert rest[-1]["type"] == "complete"
        assert Complete.model_validate(rest[-1]).status == "succeeded"
        assert "two" in str(rest)
        part = (await second.get(f"/api/executions/{execution}/output")).json()
        assert (part["data"], part["completed"]) == ("one\ntwo\n", True)


async def test_what_a_killed_server_ran_is_lost_and_the_others_go_on(service: Service) -> None:
    token = service.token("killed")
    last, other = service.servers[-1], service.servers[0]
    async with client(last, token) as api:
        execution = await begin(api, "echo up; sleep 7102")
        await until_said(last, execution)
    async with client(other, token) as api:
        alive = await begin(api, "echo up; sleep 7103")
        async with api.stream("GET", f"/api/executions/{execution}/events") as stream:
            lines = stream.aiter_lines()
            async for line in lines:
                if "up" in line:
                    break
            last.kill()
            rest = [json.loads(line[6:]) async for line in lines if line.startswith("data: ")]
        assert rest[-1]["status"] == "lost"
        env = {**service.env, "GATEPOST_DATA_DIR": str(service.folder / "data")}
        service.servers[-1] = start(last.folder, env)
        service.servers[-1].data_dir = last.data_dir
        assert (await api.get(f"/api/executions/{execution}")).json()["status"] == "lost"
        assert (await api.get(f"/api/executions/{alive}")).json()["status"] == "running"
        await api.post(f"/api/executions/{alive}/cancel")


async def test_all_of_them_have_written_one_chain(service: Service) -> None:
    token = service.token("chain")
    clients = service.clients(token)
    body = {"command": "pyguard true"}
    answers = await together(clients, 28, lambda api: api.post("/api/executions", json=body))
    assert {answer.status_code for answer in answers} == {202}
    said = gatepost(service.folder, "audit", "verify", "--json", env=service.env).stdout
    found = json.loads(said)
    assert (found["verified"], found["breaks"]) == (True, [])
    assert found["events"] >= 28 * 2


async def test_without_redis_nothing_is_admitted_and_the_service_says_so(
    start_server: StartServer, tmp_path: Path
) -> None:
    with running_redis() as redis:
        server = start_server({**ENV, "REDIS_URL": redis.url})
        async with client(server, new_token(tmp_path, "ann")) as api:
            assert (await api.post("/api/executions", json={"command": "pyguard true"})).status_code == 202
            redis.stop()
            for path, body in (
                ("/api/executions", {"command": "pyguard touch unlimited.txt"}),
                ("/api/executions", {"command": "pyguard touch unlimited.txt", "dry_run": True}),
            ):
                answer = await api.post(path, json=body)
                assert (answer.status_code, answer.json()["rule"]) == (503, "storage.unavailable")
            assert not files_below(server.data_dir, "unlimited.txt")
            assert server.get("/health").status == 200
            assert server.get("/").status == 200


async def test_each_due_time_of_a_schedule_runs_on_one_of_them(service: Service, postgresql: Any) -> None:
    """Twice in a row six schedules are due, on all servers at once."""
    database = await asyncpg.connect(postgresql.get_uri(database="many_servers"))
    done = "select schedule_id from schedule_runs where status = 'succeeded'"
    async with client(service.servers[0], service.token("planner")) as api:
        never = {"command": "echo due", "cron": "0 0 29 2 *"}
        added = [await api.post("/api/schedules", json={"name": f"{number}", **never}) for number in range(6)]
        ids = [answer.json()["id"] for answer in added]
        for count in (1, 2):
            await database.execute("update schedules set next_due_ms = $1", time.time_ns() // 10**6)
            async with asyncio.timeout(30):
                while Counter(row[0] for row in await database.fetch(done)) != dict.fromkeys(ids, count):
                    await asyncio.sleep(0.1)
        executions = (await api.get("/api/executions", params={"limit": 100})).json()["executions"]
        assert Counter(each["schedule_id"] for each in executions) == dict.fromkeys(ids, 2)
        for id in ids:
            await api.delete(f"/api/schedules/{id}")
    await database.close()
