"""What is kept of what ran: not for ever, and never at the price of what runs."""

import asyncio
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx

from tests.accounts import begin, client, gatepost, new_token
from tests.client import output, terminal
from tests.conftest import StartServer
from tests.ids import numbered_id
from tests.serving import Server, wait_until


async def _record(server: Server, count: int) -> list[str]:
    async with terminal(server) as client:
        return [(await client.run("pyguard seq 2000"))[0]["execution"] for _ in range(count)]


async def ended(api: httpx.AsyncClient, execution: str) -> dict[str, Any]:
    """The last message of an execution."""
    async with asyncio.timeout(30):
        while True:
            text = (await api.get(f"/api/executions/{execution}/recording")).text
            messages: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
            if messages and messages[-1]["type"] == "complete":
                return messages[-1]
            await asyncio.sleep(0.05)


def _kept(server: Server) -> list[str]:
    return sorted(path.stem for path in server.recordings.glob("*.ndjson"))


async def test_over_the_size_the_oldest_go(start_server: StartServer) -> None:
    server = start_server()
    executions = await _record(server, 5)
    size = (server.recordings / f"{executions[-1]}.ndjson").stat().st_size
    server.stop()
    server = start_server({"GATEPOST_RETENTION_BYTES": str(int(size * 2.5))})
    wait_until(lambda: _kept(server) == executions[-2:], "the oldest three to go")
    path = "/api/executions/{}/recording"
    assert [server.get(path.format(id)).status for id in executions] == [404, 404, 404, 200, 200]
    async with terminal(server) as client:
        await client.send(type="attach", execution=executions[0])
        assert (await client.receive())["rule"] == "execution.unknown"
        assert output(await client.attach(executions[-1])).startswith("1\n2\n")


async def test_over_the_age_they_go(start_server: StartServer) -> None:
    server = start_server()
    old, young = await _record(server, 2)
    server.stop()
    yesterday = time.time() - 2 * 86400
    older = numbered_id(int(yesterday * 1000), 7)
    (server.recordings / f"{old}.ndjson").rename(server.recordings / f"{older}.ndjson")
    os.utime(server.recordings / f"{young}.ndjson", (1, 1))  # as a command of the same user can do
    server = start_server({"GATEPOST_RETENTION_DAYS": "1"})
    wait_until(lambda: _kept(server) == [young], "the older one to go")


async def test_who_records_much_is_stopped_and_nobody_else_loses_anything(
    start_server: StartServer, tmp_path: Path
) -> None:
    size, count = 2**20, 2**18
    ann, eve = (new_token(tmp_path, name) for name in ("ann", "eve"))
    env = {
        "GATEPOST_RETENTION_BYTES": str(size),
        "GATEPOST_OUTPUT_LIMIT": str(count),
        "GATEPOST_USER_RATE": "999/minute",
    }
    server = start_server(env)
    async with client(server, ann) as honest, client(server, eve) as flooder:
        mine = [await ended(honest, await begin(honest, f"echo {number}")) for number in range(3)]
        rules = set()
        for _ in range(12):
            answer = await flooder.post("/api/executions", json={"command": "pyguard yes"})
            if answer.status_code == 202:
                await ended(flooder, answer.json()["id"])
            else:
                assert answer.status_code == 429
                rules.add(answer.json()["rule"])
        assert "limits.recordings" in rules
        assert sum(path.stat().st_size for path in server.recordings.iterdir()) < size
        mine.append(await ended(honest, await begin(honest, "echo on")))
    server.stop()
    server = start_server(env)
    async with client(server, eve) as flooder:
        async with asyncio.timeout(60):
            while (await flooder.post("/api/executions", json={"command": "echo x"})).status_code == 202:
                await asyncio.sleep(0.1)  # what earlier servers stored is measured at startup
    assert {each["execution"] for each in mine} <= set(_kept(server))
    events = gatepost(tmp_path, "audit", "export").stdout
    assert "limits.recordings" in events
    assert json.loads(gatepost(tmp_path, "audit", "verify", "--json", "--recordings").stdout)["verified"]


async def test_a_clock_that_is_ahead_deletes_nothing_until_it_is_confirmed(start_server: StartServer) -> None:
    server = start_server()
    executions = await _record(server, 2)
    server.stop()
    clock = server.data_dir / "clock"
    clock.write_text(str(int(clock.read_text()) - 460 * 86_400_000))  # as if the time were far ahead
    keep = {
        "GATEPOST_RETENTION_DAYS": "0.000001",
        "GATEPOST_HISTORY_DAYS": "0.000001",
        "GATEPOST_AUDIT_DAYS": "0.000001",
    }
    server = start_server(keep)
    wait_until(lambda: "clock jumped" in server.stdout, "the word in the log")
    assert "deleted" not in server.stdout.replace("nothing is deleted", "")
    server.stop()
    assert _kept(server) == executions
    assert "submitted" in gatepost(server.folder, "audit", "export").stdout
    gatepost(server.folder, "audit", "confirm-clock")
    server = start_server({"GATEPOST_RETENTION_DAYS": "0.000001"})
    wait_until(lambda: _kept(server) == [], "the recordings to go")
    server.stop()
    assert "clock_confirmed" in gatepost(server.folder, "audit", "export").stdout


async def test_a_recording_that_was_deleted_is_unknown_and_no_fault(server: Server) -> None:
    [execution] = await _record(server, 1)
    (server.recordings / f"{execution}.ndjson").unlink()
    assert server.get(f"/api/executions/{execution}/recording").status == 404
    async with terminal(server) as client:
        await client.send(type="attach", execution=execution)
        assert (await client.receive(2))["rule"] == "execution.unknown"
    assert "Traceback" not in server.logs


async def test_other_files_in_the_folder_are_left_alone(start_server: StartServer, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "recordings"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("x" * 5000)
    server = start_server({"GATEPOST_RETENTION_BYTES": "0"})
    await _record(server, 1)
    assert (folder / "notes.txt").exists()


async def test_over_the_age_events_go_on_record_and_the_rest_verifies(start_server: StartServer) -> None:
    server = start_server()
    await _record(server, 1)
    server.stop()
    server = start_server({"GATEPOST_AUDIT_DAYS": "0.000001"})
    wait_until(lambda: "audit events deleted" in server.stdout, "the events to go")
    server.stop()
    found = json.loads(gatepost(server.folder, "audit", "verify", "--json").stdout)
    assert found["verified"]
    assert found["first_seq"] > 1


async def test_an_audit_that_was_changed_is_kept_and_the_log_says_why(start_server: StartServer) -> None:
    server = start_server()
    await _record(server, 1)
    server.stop()
    with sqlite3.connect(server.data_dir / "gatepost.db") as database:
        database.execute("update audit_events set body = body || ' ' where seq = 2")
    server = start_server({"GATEPOST_AUDIT_DAYS": "0.000001"})
    wait_until(lambda: "old audit events not deleted" in server.stdout, "the word in the log")
    assert "event 2 was changed" in server.stdout
    server.stop()
    assert "TAMPERED: event 2" in gatepost(server.folder, "audit", "verify", code=1).stdout
