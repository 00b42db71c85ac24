"""A server that is killed, and a disk that is full: nothing is said to run that does not, nothing runs unwritten."""

import asyncio
import json
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.accounts import begin, client, gatepost, new_token
from tests.client import terminal
from tests.conftest import StartServer
from tests.serving import Server, files_below, processes_of, wait_until


def audit_of(folder: Path) -> list[dict[str, Any]]:
    """The events of an audit, which has to be whole."""
    gatepost(folder, "audit", "verify")
    lines = gatepost(folder, "audit", "export").stdout.splitlines()[1:-1]
    return [json.loads(json.loads(line)["body"]) for line in lines]


def kinds(events: list[dict[str, Any]], execution: str) -> list[str]:
    return [event["kind"] for event in events if event.get("execution") == execution]


async def status(api: httpx.AsyncClient, execution: str) -> str:
    answer = await api.get(f"/api/executions/{execution}")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["status"])


async def ended(api: httpx.AsyncClient, execution: str) -> None:
    async with asyncio.timeout(20):
        while await status(api, execution) == "running":
            await asyncio.sleep(0.02)


@contextmanager
def locked(server: Server) -> Iterator[None]:
    """Keep the database of a server from writing."""
    connection = sqlite3.connect(server.data_dir / "gatepost.db", isolation_level=None)
    connection.execute("begin immediate")
    try:
        yield
    finally:
        connection.close()


async def test_what_ran_in_a_killed_server_is_lost_and_what_had_ended_is_not(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server({"GATEPOST_CONCURRENT_PER_PRINCIPAL": "20"})
    token = new_token(tmp_path, "ann")
    async with client(server, token) as api, terminal(server) as visitor:
        good = await begin(api, "echo good")
        bad = await begin(api, "exit 7")
        for execution in (good, bad):
            await ended(api, execution)
        running = [await begin(api, f"echo up; sleep 640{number}") for number in range(4)]
        running.append(await begin(api, "(setsid sleep 6404 &); sleep 6404"))
        running.append((await visitor.start("pyguard sleep 6405"))["execution"])
        gone = await begin(api, "sleep 6406")
        wait_until(lambda: len([p for p in processes_of(server) if p.command.startswith("sleep 640")]) >= 8, "all")
        server.kill()
    wait_until(lambda: not processes_of(server, "sleep 640"), "the end of what ran in the killed server")
    (server.recordings / f"{gone}.ndjson").unlink()

    server = start_server()
    async with client(server, token) as api:
        assert [await status(api, execution) for execution in (good, bad)] == ["succeeded", "failed"]
        for execution in [*running[:-1], gone]:
            assert await status(api, execution) == "lost"
        page = (await api.get("/api/executions")).json()["executions"]
        assert {entry["status"] for entry in page} == {"succeeded", "failed", "lost"}
        assert (await api.get("/api/executions", params={"status": "running"})).json()["executions"] == []
        again = await begin(api, "echo on")
        await ended(api, again)
    server.stop()
    start_server()  # which finds nothing to close any more
    events = audit_of(tmp_path)
    for execution in running:
        assert server.recording(execution)[-1]["status"] == "lost"
        assert kinds(events, execution) == ["submitted", "started", "lost"]
    assert kinds(events, gone) == ["submitted", "started", "lost"]
    assert kinds(events, good) == ["submitted", "started", "finished"]


async def test_a_server_that_is_killed_again_and_again_leaves_recordings_that_agree_with_the_audit(
    start_server: StartServer, tmp_path: Path
) -> None:
    token = new_token(tmp_path, "ann")
    env = {"GATEPOST_CONCURRENT_PER_PRINCIPAL": "20", "GATEPOST_USER_RATE": "100000/minute"}
    for kill in range(6):
        server = start_server({**env, "GATEPOST_API_RATE": "100000/minute"})
        async with client(server, token) as api:
            for line in ("pyguard true", "echo one; false", "pyguard seq 100") * 5:
                await begin(api, line, dry_run=not line.startswith("pyguard"))
            last = await begin(api, "echo last")
            if kill % 2:
                await ended(api, last)
        server.kill()
    server = start_server(env)
    async with client(server, token) as api:
        page = (await api.get("/api/executions", params={"limit": 200})).json()["executions"]
    assert len(page) == 6 * 16
    for entry in page:
        last_line = server.get(f"/api/executions/{entry['id']}/recording", {"Authorization": f"Bearer {token}"})
        assert json.loads(last_line.body.splitlines()[-1])["status"] == entry["status"]
    server.stop()
    done = gatepost(tmp_path, "audit", "verify", "--json", "--recordings")
    assert json.loads(done.stdout)["recordings"] == {"good": len(page), "gone": 0, "changed": []}


async def test_an_ending_that_could_not_be_written_is_the_true_one_after_the_next_start(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server()
    token = new_token(tmp_path, "ann")
    async with client(server, token) as api:
        execution = await begin(api, "echo up; read; exit 7", stdin=True)
        wait_until(lambda: "up" in str(server.recording(execution)), "the command")
        with locked(server):
            await api.post(f"/api/executions/{execution}/stdin", json={"data": "go\n", "close": True})
            wait_until(lambda: server.recording(execution)[-1]["type"] == "complete", "its end", 20)
            assert await status(api, execution) == "running"
            server.kill()  # before the database takes the ending after all
    server = start_server()
    async with client(server, token) as api:
        found = (await api.get(f"/api/executions/{execution}")).json()
    assert (found["status"], found["exit_code"]) == ("failed", 7)
    assert found["duration_ms"] == server.recording(execution)[-1]["duration_ms"]
    assert kinds(audit_of(tmp_path), execution) == ["submitted", "started", "finished"]


async def test_on_a_full_disk_nothing_is_started_and_afterwards_it_goes_on(
    start_server: StartServer, tmp_path: Path
) -> None:
    token = new_token(tmp_path, "ann")
    env = {"GATEPOST_USER_RATE": "100000/minute", "GATEPOST_API_RATE": "100000/minute"}
    server = start_server(env, before=("tests.e2e.limited", "FSIZE", 512 << 10, -1))
    async with client(server, token) as api:
        for _ in range(1000):
            answer = await api.post("/api/executions", json={"command": "pyguard true", "dry_run": True})
            if answer.status_code != 202:
                break
        assert (answer.status_code, answer.json()["rule"]) == (503, "storage.unavailable")
        answer = await api.post("/api/executions", json={"command": "pyguard touch unwritten.txt"})
        assert (answer.status_code, answer.json()["rule"]) == (503, "storage.unavailable")
        assert not files_below(server.data_dir, "unwritten.txt")
        assert server.get("/health").status == 200
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        execution = await begin(api, "echo on")
        await ended(api, execution)
        assert await status(api, execution) == "succeeded"
    audit_of(tmp_path)
