"""Hosts from the side of a server: agents of Gatepost and of earlier products, through every front."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis as Client

from tests.api.world import World, audit, running_world
from tests.client import output, terminal
from tests.host_agent.agents import Agent, Backend, docker_stand_in, signed, start_agent
from tests.redis_server import Redis, running_redis
from tests.serving import wait_until

SECRET = "the-secret-of-server-and-hosts"


@dataclass
class OldAgent:
    """An agent as it existed before Gatepost: it answers unsigned, and knows no stop."""

    redis: Redis
    host: str
    delay: float = 0.0
    got: list[dict[str, Any]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def serve(self, ready: threading.Event) -> None:
        client: Any = Client(unix_socket_path=str(self.redis.path))
        fields = {"hostname": self.host, "status": "online", "last_heartbeat": int(time.time()), "version": "1.0"}
        client.hset(f"agents:{self.host}", mapping={**fields, "capabilities": "echo,old_report"})
        with client.pubsub() as channel, suppress(Exception):
            channel.subscribe(f"cockpit-agent:{self.host}")
            assert channel.get_message(timeout=5)
            ready.set()
            while not self.ended.is_set():
                message = channel.get_message(timeout=0.1)
                if message and message["type"] == "message":
                    self.answer(client, json.loads(message["data"]))

    def answer(self, client: Any, message: dict[str, Any]) -> None:
        self.got.append(message)
        self.ended.wait(self.delay)
        response = f"cockpit-agent-response:{self.host}"
        client.publish(
            response, json.dumps({"type": "progress", "command_id": message["command_id"], "status": "success"})
        )
        client.publish(response, "no json")
        client.publish(response, json.dumps({"command_id": "another", "status": "success", "output": "x"}))
        success = message["command"] != "old_report"
        answer = {
            "command_id": message["command_id"],
            "status": "success" if success else "error",
            "output": {"said": message["params"]} if success else "",
            "error": None if success else "no report",
            "execution_time_ms": 1,
            "timestamp": int(time.time()),
        }
        client.publish(response, json.dumps(answer))


@contextmanager
def old_agent(redis: Redis, host: str, delay: float = 0.0) -> Iterator[OldAgent]:
    agent, ready = OldAgent(redis, host, delay), threading.Event()
    thread = threading.Thread(target=agent.serve, args=(ready,))
    thread.start()
    try:
        assert ready.wait(10)
        yield agent
    finally:
        agent.ended.set()
        thread.join()


@dataclass
class Service:
    """A server with people, a Redis and an agent."""

    world: World
    redis: Redis
    agent: Agent

    def run(self, host: str, command: str, params: Any = None, who: str = "root", **more: Any) -> httpx.Response:
        body = {"command": command, "params": params or {}, **more}
        return self.world.ask(who, "POST", f"/api/hosts/{host}/commands", body)

    def result(self, answer: httpx.Response) -> dict[str, Any]:
        """The execution that was started, at its end, with its output."""
        assert answer.status_code == 202, answer.text
        id = answer.json()["id"]
        self.world.ended(id)
        found: dict[str, Any] = self.world.ask("root", "GET", f"/api/executions/{id}").json()
        return found | {"output": self.world.ask("root", "GET", f"/api/executions/{id}/output").json()["data"]}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    folder.chmod(0o711)
    with running_redis() as redis:
        env = {"REDIS_URL": redis.url, "COCKPIT_SHARED_SECRET": SECRET, "GATEPOST_USER_RATE": "1000/minute"}
        with running_world(_folder(folder / "server"), env) as world:
            docker = docker_stand_in(folder / "bin")
            agent = start_agent(
                folder / "agent", redis, COCKPIT_SHARED_SECRET=SECRET, GATEPOST_DOCKER_COMMAND=str(docker)
            )
            Backend.on(redis, SECRET).listening(agent)
            yield Service(world, redis, agent)
            agent.stop()


def _folder(path: Path) -> Path:
    path.mkdir(mode=0o711)
    return path


def test_a_host_appears_by_its_heartbeat(service: Service) -> None:
    client: Any = Client(unix_socket_path=str(service.redis.path))
    client.set("agents:broken", "not a hash")
    client.hset("agents:odd", mapping={"last_heartbeat": "never", "status": b"\xff", "capabilities": "x" * 10_000})
    client.hset("agents:never", mapping={"last_heartbeat": "99999999999999", "started_at": "1e14", "status": "online"})
    client.hset("agents:a:b", mapping={"status": "online"})
    client.hset("agents:*", mapping={"status": "online"})
    found = {each["id"]: each for each in service.world.ask("root", "GET", "/api/hosts").json()}
    assert set(found) >= {"web-01", "odd"}
    assert not {"broken", "a:b", "*"} & set(found)
    host = found["web-01"]
    assert (host["status"], host["target"]) == ("online", "host:web-01")
    assert "git_pull" in host["capabilities"]
    assert service.world.ask("root", "GET", "/api/hosts/web-01").json()["id"] == "web-01"
    assert found["odd"]["status"] == found["never"]["status"] == "offline"
    assert service.world.ask("root", "GET", "/api/hosts/broken").status_code == 404
    assert service.run("broken", "echo").status_code == 404
    assert client.info("commandstats").get("cmdstat_keys") is None


def test_a_host_that_crashed_stays_listed_as_offline(service: Service, tmp_path: Path) -> None:
    agent = start_agent(tmp_path / "gone", service.redis, "gone", COCKPIT_SHARED_SECRET=SECRET)
    Backend.on(service.redis, SECRET).listening(agent)
    assert service.world.ask("root", "GET", "/api/hosts/gone").json()["status"] == "online"
    agent.process.kill()
    agent.process.wait()
    client: Any = Client(unix_socket_path=str(service.redis.path))
    wait_until(lambda: not client.exists("agents:gone"), "its entry to expire")
    host = service.world.ask("root", "GET", "/api/hosts/gone").json()
    assert host["status"] == "offline"
    assert host["last_seen"]
    result = service.result(service.run("gone", "echo"))
    assert result["status"] == "failed"


def test_a_command_is_an_execution_like_any_other(service: Service) -> None:
    result = service.result(service.run("web-01", "echo", {"message": "hello"}))
    assert (result["status"], result["exit_code"], result["output"]) == ("succeeded", 0, "hello\n")
    assert (result["target"], result["command"]) == ("host:web-01", "echo message=hello")
    kinds = [each["kind"] for each in audit(service.world.server.data_dir) if each.get("execution") == result["id"]]
    assert kinds[:1] == ["submitted"]
    assert kinds[-1:] == ["finished"]
    mine = service.world.ask("root", "GET", "/api/executions?target=host:web-01").json()["executions"]
    assert result["id"] in [each["id"] for each in mine]


def test_every_front_reaches_a_host(service: Service) -> None:
    body = {"command": "docker_restart grafana", "target": "host:web-01"}
    assert service.result(service.world.ask("root", "POST", "/api/executions", body))["output"] == "grafana\n"
    body = {"command": "@web-01 docker_restart grafana"}
    assert service.result(service.world.ask("root", "POST", "/api/executions", body))["output"] == "grafana\n"
    verdict = service.world.ask("root", "POST", "/api/policy/explain", {"command": "@web-01 git_pull /srv/app main"})
    assert (verdict.json()["rule"], verdict.json()["risk"]) == ("allow.git_pull", "moderate")


@pytest.mark.parametrize("name", ["web-01,web-02", "env=production"])
def test_a_line_for_several_hosts_is_told_where_to_go(service: Service, name: str) -> None:
    answer = service.world.ask("root", "POST", "/api/executions", {"command": f"@{name} echo"})
    assert (answer.status_code, answer.json()["rule"]) == (404, "target.unknown")
    assert "all with a label" in answer.json()["hint"]


async def test_the_terminal_reaches_a_host(service: Service) -> None:
    token = service.world.tokens["root"]
    async with terminal(service.world.server, additional_headers={"Authorization": f"Bearer {token}"}) as client:
        assert output(await client.run("@web-01 echo from the terminal")) == "from the terminal\n"
        assert output(await client.command("@web-01 echo from the page")) == "from the page\n"


@pytest.mark.parametrize(
    ("command", "params", "error"),
    [
        ("git_pull", {"repository_path": "/etc"}, "Repository path not allowed"),
        ("git_pull", {"repository_path": "/opt/app/config", "branch": "--upload-pack=x"}, "Branch not allowed"),
        ("docker_restart", {"container_name": "other"}, "Container name not allowed"),
    ],
)
def test_the_host_has_the_last_word(service: Service, command: str, params: Any, error: str) -> None:
    result = service.result(service.run("web-01", command, params))
    assert (result["status"], result["exit_code"]) == ("failed", 1)
    assert error in result["output"]


@pytest.mark.parametrize(
    ("host", "body", "status"),
    [
        ("web-01", {"command": "rm", "params": {}}, 400),
        ("web-01", {"command": "echo", "params": []}, 422),
        ("web-01", {"command": "echo", "params": {"--x": 1}}, 422),
        ("web-01", {"command": "echo", "params": {"message": "x" * 20_000}}, 400),
        ("web-01", {"command": "echo", "params": {"message": "x" * (1 << 20)}}, 413),
        ("web-02", {"command": "echo"}, 404),
        ("a:b", {"command": "echo"}, 404),
        ("*", {"command": "echo"}, 404),
        ("x" * 65, {"command": "echo"}, 404),
        ("a%00b", {"command": "echo"}, 404),
        ("..%2fx", {"command": "echo"}, 404),
    ],
)
def test_bad_input_runs_nothing(service: Service, host: str, body: Any, status: int) -> None:
    answer = service.world.ask("root", "POST", f"/api/hosts/{host}/commands", body)
    assert answer.status_code == status, answer.text
    assert answer.json()["rule"]


@pytest.mark.parametrize("who", ["ann", "vic", "program", "scoped"])
def test_hosts_are_for_administrators(service: Service, who: str) -> None:
    assert service.world.ask(who, "GET", "/api/hosts").json() == []
    assert service.world.ask(who, "GET", "/api/hosts/web-01").status_code == 404
    assert service.run("web-01", "echo", who=who).status_code == 404
    assert service.world.ask(who, "POST", "/api/executions", {"command": "@web-01 echo"}).status_code == 404


def test_several_hosts_at_once(service: Service) -> None:
    with old_agent(service.redis, "old-1"):
        body = {"hosts": ["web-01", "old-1", "none"], "command": "echo", "params": {"message": "x"}}
        answer = service.world.ask("root", "POST", "/api/hosts/commands", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["summary"] == {"succeeded": 2, "denied": 1}
    first, second, third = answer.json()["results"]
    assert (first["host"], first["output"], first["exit_code"]) == ("web-01", "x\n", 0)
    assert json.loads(second["output"]) == {"said": {"message": "x"}}
    assert (third["host"], third["rule"]) == ("none", "target.unknown")


@pytest.mark.parametrize("who", ["vic", "read"])
def test_who_may_run_nothing_is_refused_for_all_hosts(service: Service, who: str) -> None:
    body = {"hosts": ["web-01", "none"], "command": "echo"}
    answer = service.world.ask(who, "POST", "/api/hosts/commands", body)
    assert (answer.status_code, answer.json()["rule"]) == (403, "role.forbidden")


def metric(service: Service, name: str) -> float:
    """A figure of /metrics."""
    lines = service.world.server.get("/metrics").body.decode().splitlines()
    [value] = [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]
    return float(value)


def test_an_agent_of_before_is_driven_without_a_change(service: Service) -> None:
    with old_agent(service.redis, "old-2") as agent:
        result = service.result(service.run("old-2", "echo", {"message": "hi", "password": "hush"}))
        assert result["status"] == "succeeded"
        [message] = agent.got
        assert message["command_id"] == result["id"]
        assert message["params"]["password"] != "hush"
        unsigned = {key: value for key, value in message.items() if key != "auth"}
        assert message["auth"]["signature"] == signed(unsigned, SECRET)
        typed = {"command": "@old-2 echo message=hi 'password=hush hush'"}
        service.result(service.world.ask("root", "POST", "/api/executions", typed))
        assert agent.got[1]["params"]["password"] != "hush hush"
        assert "hush" not in json.dumps(audit(service.world.server.data_dir)) + service.world.server.logs
        failed = service.result(service.run("old-2", "old_report"))
        assert (failed["status"], failed["output"]) == ("failed", "no report\n")


def test_a_command_that_was_stopped_still_gets_its_answer_on_record(service: Service) -> None:
    with old_agent(service.redis, "old-3", delay=2) as agent:
        body = {"command": "@old-3 echo late", "stdin": True}
        id = service.world.ask("root", "POST", "/api/executions", body).json()["id"]
        wait_until(lambda: agent.got, "the command")
        answer = service.world.ask("root", "POST", f"/api/executions/{id}/stdin", {"data": "x"})
        assert (answer.status_code, answer.json()["rule"]) == (409, "stdin.full")
        states = ("queued", "running")
        assert [metric(service, f'gatepost_host_commands{{state="{each}"}}') for each in states] == [0, 1]
        assert metric(service, 'gatepost_hosts{state="online"}') >= 2
        assert metric(service, 'gatepost_hosts{state="offline"}') >= 1
        assert service.world.ask("root", "POST", f"/api/executions/{id}/cancel").status_code == 202
        assert service.world.ended(id) == "cancelled"
        timed = service.run("old-3", "echo", timeout=1).json()["id"]
        assert service.world.ended(timed) == "timed_out"

        def late() -> set[str]:
            return {each["execution"] for each in service.world.events(kind="answered_late")}

        wait_until(lambda: late() >= {id, timed}, "the late answers")
        assert metric(service, "gatepost_host_answers_late_total") == 2


def test_a_forged_answer_is_no_answer(service: Service) -> None:
    with old_agent(service.redis, "old-4", delay=1) as agent:
        id = service.run("old-4", "echo").json()["id"]
        wait_until(lambda: agent.got, "the command")
        client: Any = Client(unix_socket_path=str(service.redis.path))
        forged = {"command_id": id, "status": "success", "output": "forged"}
        client.publish("cockpit-agent-response:old-4", json.dumps({**forged, "auth": {"signature": "0" * 64}}))
        client.publish("cockpit-agent-response:web-01", json.dumps(forged))
        service.world.ended(id)
        assert "forged" not in service.world.ask("root", "GET", f"/api/executions/{id}/output").json()["data"]


@pytest.mark.parametrize("status", [[], {}])
def test_a_broken_answer_stops_no_other(service: Service, status: Any) -> None:
    assert service.result(service.run("web-01", "echo"))["status"] == "succeeded"  # so its answers are listened to
    client: Any = Client(unix_socket_path=str(service.redis.path))
    broken = json.dumps({"command_id": "x", "status": status})
    assert client.publish("cockpit-agent-response:web-01", broken)
    assert service.result(service.run("web-01", "echo"))["status"] == "succeeded"


def test_no_listener_is_an_error_at_once(service: Service) -> None:
    client: Any = Client(unix_socket_path=str(service.redis.path))
    client.hset("agents:deaf", mapping={"status": "online", "last_heartbeat": int(time.time())})
    begun = time.monotonic()
    id = service.run("deaf", "echo").json()["id"]
    assert service.world.ended(id) == "failed"
    assert time.monotonic() - begun < 20
    [error] = [each for each in service.world.server.recording(id) if each["type"] == "error"]
    assert error["rule"] == "host.offline"


def test_unsigned_hosts_are_said_loudly(tmp_path: Path) -> None:
    with running_redis() as redis:
        env = {"REDIS_URL": redis.url, "GATEPOST_ALLOW_UNSIGNED_HOSTS": "true"}
        with running_world(_folder(tmp_path / "server"), env) as world, old_agent(redis, "old") as agent:
            assert world.server.get("/readyz").json["warnings"] == ["unsigned_hosts"]
            assert "Commands for hosts may be unsigned" in world.server.logs
            service = Service(world, redis, None)  # type: ignore[arg-type]
            assert service.result(service.run("old", "echo"))["status"] == "succeeded"
            assert agent.got[0].keys() == {"command_id", "command", "params"}
            redis.stop()
            assert world.ask("root", "POST", "/api/hosts/old/commands", {"command": "echo"}).status_code == 503
            assert world.ask("root", "GET", "/api/hosts").status_code == 503


def test_without_a_secret_there_are_no_hosts(tmp_path: Path) -> None:
    with (
        running_redis() as redis,
        old_agent(redis, "old"),
        running_world(_folder(tmp_path / "server"), {"REDIS_URL": redis.url}) as world,
    ):
        assert world.ask("root", "GET", "/api/hosts").json() == []
        assert world.ask("root", "POST", "/api/hosts/old/commands", {"command": "echo"}).status_code == 404
        assert "warnings" not in world.server.get("/readyz").json
