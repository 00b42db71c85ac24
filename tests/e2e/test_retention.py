"""What is kept of what ran: not for ever, and never at the price of what runs."""

import json
import os
import sqlite3
import time
from pathlib import Path

from tests.accounts import gatepost
from tests.client import output, terminal
from tests.conftest import StartServer
from tests.serving import Server, wait_until


async def _record(server: Server, count: int) -> list[str]:
    async with terminal(server) as client:
        return [(await client.run("pyguard seq 2000"))[0]["execution"] for _ in range(count)]


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
    os.utime(server.recordings / f"{old}.ndjson", (yesterday, yesterday))
    server = start_server({"GATEPOST_RETENTION_DAYS": "1"})
    wait_until(lambda: _kept(server) == [young], "the older one to go")


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
