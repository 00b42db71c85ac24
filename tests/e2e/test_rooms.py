"""Commands of a server that run in rooms: the level is told, a project is one place, and nothing is left."""

from pathlib import Path

from tests.api.world import new_project, running_world
from tests.client import output, terminal
from tests.conftest import StartServer
from tests.executors.local.test_rooms import wanted
from tests.serving import processes_of, wait_until

IN_ROOMS = {"GATEPOST_NAMESPACES": "true", "GATEPOST_PROTECTION_MINIMUM": "L3"}
SERVE = (
    "require('http').createServer((_, answer) => answer.end()).listen(8125, '127.0.0.1', () => console.log('ready'))"
)
GET = "fetch('http://127.0.0.1:8125/').then((answer) => console.log(answer.status))"


async def test_the_level_is_told_for_the_server_and_for_each_command(start_server: StartServer) -> None:
    server = start_server(IN_ROOMS)
    found = server.get("/health/protection").json
    assert (found["level"], found["minimum"]) == ("L3", "L3")
    assert all(test["passed"] for test in found["tests"])
    async with terminal(server) as client:
        replies = await client.run("pyguard echo ok")
    assert (output(replies), replies[-1]["status"], replies[-1]["protection"]) == ("ok\n", "succeeded", "L3")


def test_what_one_command_serves_the_next_reaches(tmp_path: Path) -> None:
    wanted("node")
    with running_world(tmp_path, IN_ROOMS) as world:
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
        rooms = [process for process in processes_of(world.server) if b"--room" in _command_line(process.pid)]
        assert len(rooms) == 1
        world.server.stop()
        assert not any(Path(f"/proc/{process.pid}").exists() for process in rooms)


async def test_without_them_the_minimum_is_not_reached(start_server: StartServer) -> None:
    server = start_server({**IN_ROOMS, "GATEPOST_NAMESPACES": "false"})
    assert server.get("/health/protection").status == 503
    async with terminal(server) as client:
        assert (await client.run("pyguard echo ok"))[-1]["rule"] == "protection.unavailable"


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
