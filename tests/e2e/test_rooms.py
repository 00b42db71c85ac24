"""Commands of a server that run in rooms: the level is told, a project is one place, and nothing is left."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.executors.local.launcher import POLLING
from tests.api.world import new_project, running_world
from tests.client import output, terminal
from tests.conftest import StartServer
from tests.executors.local.test_rooms import wanted
from tests.preloaded import Before
from tests.serving import rooms_of, wait_until

REQUIRED = {"GATEPOST_NAMESPACES": "true"}
NO_MOUNTS: Before = ("tests.e2e.without_calls", "mounts")
SERVE = (
    "require('http').createServer((_, answer) => answer.end()).listen(8125, '127.0.0.1', () => console.log('ready'))"
)
GET = "fetch('http://127.0.0.1:8125/').then((answer) => console.log(answer.status))"


async def test_the_level_is_told_for_the_server_and_for_each_command(start_server: StartServer) -> None:
    server = start_server()
    found = server.get("/health/protection").json
    assert (found["level"], found["minimum"]) == ("L3", "L2")
    assert all(test["passed"] for test in found["tests"])
    assert "L3" in {test["needed_for"] for test in found["tests"]}
    async with terminal(server) as client:
        replies = await client.run("pyguard echo ok")
        environment = output(await client.run("pyguard env"))
    assert (output(replies), replies[-1]["status"], replies[-1]["protection"]) == ("ok\n", "succeeded", "L3")
    assert "POLLING" not in environment, "watches are permitted in a room"


@pytest.fixture
def apart() -> Iterator[Path]:
    """A folder that is not below /tmp, of which a room then shows nothing."""
    with tempfile.TemporaryDirectory(prefix="gatepost-test-", dir="/var/tmp") as name:
        yield Path(name)


def test_a_project_is_one_place_for_its_commands(apart: Path) -> None:
    """What one command serves or puts into /tmp, the next one reaches."""
    wanted("node")
    with running_world(apart, REQUIRED) as world:
        place = new_project(world, allowed_extra=[], network=False)
        folder = world.server.data_dir / "projects" / place
        folder.mkdir(parents=True)
        (folder / "serve.js").write_text(SERVE)
        (folder / "get.js").write_text(GET)
        serving = world.ask("ann", "POST", "/api/executions", {"project_id": place, "command": "node serve.js"}).json()
        path = f"/api/executions/{serving['id']}"
        wait_until(
            lambda: "ready" in world.ask("ann", "GET", f"{path}/output").json()["data"], "the server of the project"
        )
        asked = {"project_id": place, "command": "node get.js"}
        assert world.ask("ann", "POST", "/api/agent/execute", asked).json()["stdout"] == "200\n"
        (folder / "make.js").write_text("require('fs').writeFileSync('/tmp/made', 'kept')")
        asked = {"project_id": place, "command": "node make.js && cat /tmp/made"}
        assert world.ask("ann", "POST", "/api/agent/execute", asked).json()["stdout"] == "kept"
        assert (folder / ".tmp/made").read_text() == "kept"
        rooms = rooms_of(world.server)
        assert len(rooms) == 1
        os.kill(rooms[0].pid, signal.SIGKILL)  # a room that has ended, with all that was in it, is made again
        wait_until(lambda: world.status(serving["id"], "ann") == "failed", "the end of the room")
        assert world.ask("ann", "POST", "/api/agent/execute", asked).json()["stdout"] == "kept"
        rooms = rooms_of(world.server)
        assert len(rooms) == 1
        world.server.stop()
        assert not any(Path(f"/proc/{process.pid}").exists() for process in rooms)


async def test_where_they_cannot_be_had_commands_run_without_them(start_server: StartServer) -> None:
    server = start_server(before=NO_MOUNTS)
    answer = server.get("/health/protection")
    assert (answer.status, answer.json["level"]) == (200, "L2")
    [missing] = [test for test in answer.json["tests"] if not test["passed"]]
    assert (missing["name"], missing["needed_for"]) == ("run in namespaces", "L3")
    assert missing["detail"].endswith("Operation not permitted")
    assert server.get("/readyz").status == 200
    async with terminal(server) as client:
        replies = await client.run("pyguard env")
    assert replies[-1]["protection"] == "L2"
    assert POLLING.items() <= dict(line.split("=", 1) for line in output(replies).splitlines()).items()


async def test_where_they_are_required_and_cannot_be_had_nothing_runs(start_server: StartServer) -> None:
    server = start_server(REQUIRED, before=NO_MOUNTS)
    answer = server.get("/health/protection")
    assert (answer.status, answer.json["level"], answer.json["minimum"]) == (503, "L2", "L3")
    wait_until(lambda: "is ready" in server.stderr, "its welcome")
    assert "but runs no command. The protection here is L2, but L3 is required." in server.stderr
    assert "  run in namespaces: no namespaces: " in server.stderr
    assert server.get("/readyz").json["checks"]["protection"] == "failed"
    async with terminal(server) as client:
        [refusal] = await client.run("pyguard echo ok")
    assert (refusal["rule"], refusal["reason"]) == (
        "protection.unavailable",
        "The protection here is L2, but L3 is required.",
    )
    assert "run in namespaces" in refusal["hint"]
