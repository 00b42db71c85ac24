"""The agent as existing backends see it: both dialects, the registry, the usual commands."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as Client

from backend.host_agent.handlers import HandlersError, handlers_of_file
from tests.host_agent.agents import (
    Agent,
    Backend,
    Repositories,
    docker_stand_in,
    repositories,
    signed,
    start_agent,
)
from tests.host_agent.conftest import StartAgent
from tests.needs import need
from tests.ports import free_port
from tests.redis_server import Redis, running_redis
from tests.serving import wait_until

SECRET = "a-secret-of-both"


@pytest.fixture(scope="module")
def shared(redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Agent, Repositories]]:
    """An agent for the tests of this file, with a repository and two containers."""
    folder = tmp_path_factory.mktemp("host")
    folder.chmod(0o711)
    places = repositories(folder / "git")
    agent = start_agent(
        folder / "agent",
        redis,
        GATEPOST_ALLOW_UNSIGNED_HOSTS="true",
        GIT_REPO_PATH=f"{places.clone},/no/such/clone",
        GATEPOST_READABLE=str(places.remote),
        DOCKER_CONTAINER_NAME="grafana, broken",
        GATEPOST_DOCKER_COMMAND=str(docker_stand_in(folder / "bin")),
    )
    Backend.on(redis).listening(agent)
    yield agent, places
    agent.stop()


@pytest.fixture
def agent(shared: tuple[Agent, Repositories]) -> Agent:
    return shared[0]


@pytest.fixture
def places(shared: tuple[Agent, Repositories]) -> Repositories:
    return shared[1]


def test_the_registry_has_the_fields_of_both_dialects(agent: Agent, backend: Backend) -> None:
    found = {key.decode(): value.decode() for key, value in backend.client.hgetall("agents:web-01").items()}
    assert (found["hostname"], found["agent_id"], found["status"]) == ("web-01", "web-01", "online")
    assert {"echo", "git_pull", "git_status", "docker_restart"} <= set(found["capabilities"].split(","))
    assert abs(time.time() - int(found["last_heartbeat"])) < 30
    assert int(found["started_at"]) <= int(found["last_heartbeat"])
    assert {"version", "commands_executed"} <= found.keys()
    assert 0 < backend.client.ttl("agents:web-01") <= 3


def test_the_documented_check_with_redis_cli(agent: Agent, redis: Redis, backend: Backend) -> None:
    need(shutil.which("redis-cli"), "redis-cli")
    with backend.client.pubsub() as channel:
        channel.subscribe("cockpit-agent-response:web-01")
        assert channel.get_message(timeout=5)
        message = '{"command_id":"test-1","command":"echo","params":{"message":"hello"}}'
        words = ["redis-cli", "-s", str(redis.path), "PUBLISH", "cockpit-agent:web-01", message]
        for _ in range(2):  # by hand, the same id is used again and again
            assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == "1"
            got = wait_until(lambda: channel.get_message(timeout=0.2), "the answer")
            answer = json.loads(got["data"])
            assert abs(answer.pop("timestamp") - time.time()) < 30
            assert isinstance(answer.pop("execution_time_ms"), int)
            expected = {"command_id": "test-1", "status": "success", "output": "hello", "error": None}
            assert answer == expected


@pytest.mark.parametrize(
    ("params", "output"),
    [
        ({}, "pong"),
        ({"message": 'it\'s "two" words'}, 'it\'s "two" words'),
        ({"message": "two\nlines"}, "two\nlines"),
        ({"message": "$(id) `id` ; | & *"}, "$(id) `id` ; | & *"),
        ({"message": '{"a": 1}'}, '{"a": 1}'),
        ({"message": "a=b --x"}, "a=b --x"),
    ],
)
def test_echo_answers_what_it_was_sent(agent: Agent, backend: Backend, params: dict[str, str], output: str) -> None:
    answer = backend.ask("web-01", "echo", params)
    assert (answer["status"], answer["output"]) == ("success", output)


def test_an_id_may_be_any_text(agent: Agent, backend: Backend) -> None:
    assert backend.ask("web-01", "echo", id="a\ud800\0")["output"] == "pong"


def test_params_may_be_missing(agent: Agent, backend: Backend) -> None:
    assert backend.send("web-01", {"command_id": "no-params", "command": "echo"})["output"] == "pong"


def test_a_pull_brings_what_is_new(agent: Agent, backend: Backend, places: Repositories) -> None:
    places.commit("second")
    answer = backend.ask("web-01", "git_pull", {"repository_path": str(places.clone)})
    assert answer["status"] == "success", answer
    assert "Fast-forward" in answer["output"]
    assert (places.clone / "second").read_text() == "x"
    answer = backend.ask("web-01", "git_status", {"repository_path": str(places.clone)})
    assert "nothing to commit" in answer["output"]


def test_a_failing_program_is_an_error_with_its_words(agent: Agent, backend: Backend, places: Repositories) -> None:
    answer = backend.ask("web-01", "git_pull", {"repository_path": str(places.clone), "branch": "missing"})
    assert answer["status"] == "error"
    assert "missing" in answer["error"]
    answer = backend.ask("web-01", "docker_restart", {"container_name": "broken"})
    assert (answer["status"], answer["output"], answer["error"]) == ("error", "broken", "no such container")


def test_a_container_is_restarted(agent: Agent, backend: Backend) -> None:
    answer = backend.ask("web-01", "docker_restart", {"container_name": "grafana"})
    assert (answer["status"], answer["output"]) == ("success", "grafana")


@pytest.mark.parametrize(
    ("command", "params", "error"),
    [
        ("git_pull", {"repository_path": "/etc"}, "Repository path not allowed"),
        ("git_pull", {"repository_path": "CLONE/../clone"}, "Repository path not allowed"),
        ("git_pull", {"repository_path": "/no/such/clone"}, "no folder /no/such/clone on this host"),
        ("git_pull", {"repository_path": "CLONE", "branch": "--upload-pack=touch /tmp/x"}, "Branch not allowed"),
        ("git_pull", {"repository_path": "CLONE", "branch": "a..b"}, "Branch not allowed"),
        ("git_pull", {"repository_path": "CLONE", "branch": "main\n--x"}, "Branch not allowed"),
        ("git_pull", {"repository_path": "CLONE", "branch": ["main"]}, "must be a text"),
        ("git_pull", {"repository_path": "CLONE", "branch": "a\0b"}, "without NUL"),
        ("git_pull", {"repository_path": "CLONE", "force": True}, "Unknown parameter: force"),
        ("git_pull", {}, "Repository path not allowed"),
        ("docker_restart", {"container_name": "other"}, "Container name not allowed"),
        ("docker_restart", {"container_name": "-f"}, "Container name not allowed"),
        ("rm", {"path": "/"}, "Unknown command: rm"),
        ("../x", {}, "Unknown command: ../x"),
        ("echo", ["x"], "Invalid parameters"),
        ("echo", "x", "Invalid parameters"),
        ("git_status", {"--bad name": 1}, "Invalid parameters"),
        ("echo", {"message": "x" * (1 << 20)}, "characters"),
    ],
)
def test_bad_input_is_an_error_and_runs_nothing(
    agent: Agent, backend: Backend, places: Repositories, command: str, params: Any, error: str
) -> None:
    if isinstance(params, dict):
        params = {
            key: value.replace("CLONE", str(places.clone)) if isinstance(value, str) else value
            for key, value in params.items()
        }
    answer = backend.ask("web-01", command, params)
    assert answer["status"] == "error"
    assert error in answer["error"]
    assert not answer["output"]


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe",
        "no json",
        "[1]",
        '{"command":"echo"}',
        '{"command_id":"x"}',
        '{"command_id":5,"command":"echo"}',
        "[" * 100_000,
        b'{"command_id":"x","command":"echo","params":{"message":"%b"}}' % (b"x" * (2 << 20)),
    ],
)
def test_what_is_no_command_gets_no_answer(agent: Agent, backend: Backend, raw: bytes | str) -> None:
    backend.is_silent("web-01", raw)


def test_everything_is_in_the_audit_of_the_host(new_agent: StartAgent, backend: Backend) -> None:
    agent = new_agent("audited")
    backend.ask("audited", "echo", {"message": "hello"})
    backend.ask("audited", "rm", {})
    backend.is_silent("audited", "no json")
    kinds = wait_until(lambda: (found := [each["kind"] for each in agent.audit]).count("rejected") and found, "events")
    assert kinds.count("submitted") >= 2
    assert {"denied", "rejected", "finished"} <= set(kinds)
    assert agent.stop() == 0


def test_an_echo_waits_for_no_pull(new_agent: StartAgent, backend: Backend, tmp_path: Path) -> None:
    slow = docker_stand_in(tmp_path / "bin", seconds=5)
    new_agent("busy", GATEPOST_DOCKER_COMMAND=str(slow))
    for number in range(6):
        message = backend.message("docker_restart", {"container_name": "grafana"}, id=f"slow-{number}")
        backend.client.publish("cockpit-agent:busy", json.dumps(message))
    begun = time.monotonic()
    assert backend.ask("busy", "echo")["output"] == "pong"
    assert time.monotonic() - begun < 4


def test_a_command_that_takes_too_long_is_stopped(new_agent: StartAgent, backend: Backend, tmp_path: Path) -> None:
    slow = docker_stand_in(tmp_path / "bin", seconds=60)
    new_agent("slow", GATEPOST_DOCKER_COMMAND=str(slow), DOCKER_TIMEOUT="0.5")
    answer = backend.ask("slow", "docker_restart", {"container_name": "grafana"})
    assert answer["status"] == "error"
    assert "Timed out" in answer["error"]


def test_sigterm_finishes_what_runs(new_agent: StartAgent, backend: Backend, tmp_path: Path) -> None:
    agent = new_agent("ending", GATEPOST_DOCKER_COMMAND=str(docker_stand_in(tmp_path / "bin", seconds=2)))
    with backend.client.pubsub() as channel:
        channel.subscribe("cockpit-agent-response:ending")
        assert channel.get_message(timeout=5)
        message = backend.message("docker_restart", {"container_name": "grafana"})
        backend.client.publish("cockpit-agent:ending", json.dumps(message))
        wait_until(lambda: "started" in [each["kind"] for each in agent.audit], "its start")
        assert agent.stop() == 0
        assert (
            json.loads(wait_until(lambda: channel.get_message(timeout=0.2), "the answer")["data"])["output"]
            == "grafana"
        )
    assert backend.client.hget("agents:ending", "status") == b"offline"


@pytest.mark.parametrize("file", ["", "async def lost(params): ...", "def f(:", "x = 1"])
def test_an_agent_that_cannot_be_trusted_or_understood_does_not_start(redis: Redis, tmp_path: Path, file: str) -> None:
    if file:
        (tmp_path / "handlers.py").write_text(file)
        env = {"AGENT_HANDLERS": str(tmp_path / "handlers.py"), "GATEPOST_ALLOW_UNSIGNED_HOSTS": "true"}
    else:
        env = {}
    agent = start_agent(tmp_path / "agent", redis, **env)
    assert agent.process.wait(30) == 2
    assert ("AGENT_HANDLERS" if file else "COCKPIT_SHARED_SECRET") in agent.log


HANDLERS = """
from backend.host_agent.handlers import HandlerError, handler

@handler(timeout=5)
async def deploy(params):
    if params.get("version") == "bad":
        raise HandlerError("There is no such version.")
    if params.get("version") == "bug":
        raise KeyError("bug")
    return {"deployed": params.get("version"), "type": type(params.get("dry")).__name__, "password": params.get("password")}
"""


def test_an_operator_adds_handlers(new_agent: StartAgent, redis: Redis, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(HANDLERS)
    new_agent("own", AGENT_HANDLERS=str(tmp_path / "own.py"), COCKPIT_SHARED_SECRET=SECRET)
    backend = Backend.on(redis, SECRET)
    answer = backend.ask("own", "deploy", {"version": "2", "dry": True, "password": "hush"})
    assert answer["output"] == {"deployed": "2", "type": "bool", "password": "hush"}
    assert backend.ask("own", "deploy", {"version": "bad"})["error"] == "There is no such version."
    assert "KeyError" in backend.ask("own", "deploy", {"version": "bug"})["error"]
    assert b"deploy" in (backend.client.hget("agents:own", "capabilities") or b"")


@pytest.mark.parametrize(("mode", "owner"), [(0o646, 0), (0o664, 0), (0o644, 1)])
def test_handlers_that_others_may_change_are_refused(tmp_path: Path, mode: int, owner: int) -> None:
    path, run = tmp_path / "own.py", tmp_path / "run"
    path.write_text(f"open({str(run)!r}, 'w')\n")
    path.chmod(mode)
    if owner:
        if os.geteuid():
            pytest.skip("only root gives files away")
        os.chown(path, owner, owner)
    with pytest.raises(HandlersError, match="changed by others"):
        handlers_of_file(path)
    assert not run.exists()


def test_lines_run_under_their_own_policy(new_agent: StartAgent, backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir(mode=0o755)
    new_agent("lines", AGENT_RUN_PROFILE="agent", AGENT_RUN_FOLDER=str(tmp_path / "work"))
    answer = backend.ask("lines", "run", {"line": "echo hi > a.txt && cat a.txt | wc -c"})
    assert (answer["status"], answer["output"]) == ("success", "3")
    assert (tmp_path / "work" / "a.txt").read_text() == "hi\n"
    for line, error in (
        ("sudo ls", "sudo is blocked"),
        ("cat /etc/shadow", "workspace"),
        ("$(id)", "Unknown command"),
        ("ls & ls", "background"),
    ):
        answer = backend.ask("lines", "run", {"line": line})
        assert answer["status"] == "error"
        assert error in answer["error"]
    for params in ({}, {"line": 1}, {"line": "ls", "cwd": "/"}):
        assert backend.ask("lines", "run", params)["error"] == "The line is missing."
    assert "Unknown command: docker" in backend.ask("lines", "docker", {})["error"]


def test_without_a_profile_no_line_runs(agent: Agent, backend: Backend) -> None:
    assert "Unknown command: run" in backend.ask("web-01", "run", {"line": "ls"})["error"]


def test_only_signed_fresh_new_messages_for_this_host_are_accepted(new_agent: StartAgent, redis: Redis) -> None:
    agent = new_agent("signed", COCKPIT_SHARED_SECRET=SECRET)
    backend = Backend.on(redis, SECRET)
    first = backend.message("echo", {"message": "once"})
    answer = backend.send("signed", first)
    assert answer["output"] == "once"
    sent = answer.pop("auth")["signature"]
    assert sent == signed(answer, SECRET)
    assert answer["host"] == "signed"
    old = {**backend.message("echo", {}), "timestamp": int(time.time()) - 301}
    old = {**old, "auth": {"signature": signed({k: v for k, v in old.items() if k != "auth"}, SECRET)}}
    for refused in (
        first,
        Backend.on(redis).message("echo", {}),
        Backend.on(redis, "another-secret").message("echo", {}),
        old,
        {**backend.message("echo", {}), "params": {"message": "forged"}},
        {**backend.message("echo", {}), "auth": {"signature": "ä"}},
        {**backend.message("echo", {}), "auth": None},
        backend.message("echo", {}, host="other"),
    ):
        backend.is_silent("signed", json.dumps(refused))
    unsigned = (
        f'{{"command_id":"x","command":"echo","timestamp":{int(time.time())},"auth":{{"signature":"0"}},"params":'
    )
    for levels in range(960, 996):  # so deep that it can be read, but not walked through
        Backend.on(redis).client.publish("cockpit-agent:signed", unsigned + '{"a":' * levels + "0" + "}" * levels + "}")
    assert backend.send("signed", backend.message("echo", {"message": "still here"}))["output"] == "still here"

    def reasons() -> set[str]:
        return {each["reason"] for each in agent.audit if each["kind"] == "rejected"}

    wait_until(lambda: len(reasons()) >= 5, "the events")
    assert {"its command_id was used before", "it is not signed", "its signature is not valid"} <= reasons()
    assert {"it is stale", "it is for another host"} <= reasons()


def test_a_captured_message_is_not_accepted_after_a_restart(new_agent: StartAgent, redis: Redis) -> None:
    agent = new_agent("again", COCKPIT_SHARED_SECRET=SECRET)
    backend = Backend.on(redis, SECRET)
    captured = backend.message("echo", {"message": "once"})
    assert backend.send("again", captured)["output"] == "once"
    agent.stop()
    agent = new_agent("again", COCKPIT_SHARED_SECRET=SECRET)
    backend.is_silent("again", json.dumps(captured))
    wait_until(lambda: "it was received before" in {each.get("reason") for each in agent.audit}, "the event")


def test_an_agent_starts_without_redis_and_waits_for_it(tmp_path: Path) -> None:
    with running_redis() as redis:
        agent = start_agent(
            tmp_path / "agent", redis, GATEPOST_ALLOW_UNSIGNED_HOSTS="true", REDIS_URL="", REDIS_PORT="1"
        )
        wait_until(lambda: "Redis is away" in agent.log, "the report", 30)
        assert agent.process.poll() is None
        assert agent.stop() == 0


def test_host_port_and_password_as_existing_agents_have_them(tmp_path: Path) -> None:
    port = str(free_port())
    with running_redis("--requirepass", "hush-hush", "--port", port) as redis:
        env = {"REDIS_URL": "", "REDIS_HOST": "127.0.0.1", "REDIS_PORT": port, "REDIS_DB": "2"}
        env |= {"REDIS_PASSWORD": "hush-hush", "AGENT_HOSTNAME": "", "AGENT_ID": "db-1"}
        agent = start_agent(tmp_path / "agent", redis, "db-1", GATEPOST_ALLOW_UNSIGNED_HOSTS="true", **env)
        backend = Backend(Client(host="127.0.0.1", port=int(port), password="hush-hush", db=2))
        backend.listening(agent)
        answer = backend.ask("db-1", "echo", {"message": "hush-hush"})
        assert "hush-hush" not in answer["output"]  # masked, as every secret in output
        assert agent.stop() == 0
        assert "hush" not in agent.log


@pytest.mark.parametrize("killed", [False, True])
def test_an_answer_is_kept_while_redis_is_away(tmp_path: Path, killed: bool) -> None:
    env = {"GATEPOST_DOCKER_COMMAND": str(docker_stand_in(tmp_path / "bin", seconds=1))}
    with running_redis() as redis:
        agent = start_agent(tmp_path / "agent", redis, GATEPOST_ALLOW_UNSIGNED_HOSTS="true", **env)
        backend = Backend.on(redis)
        backend.listening(agent)
        for number in range(3):
            message = backend.message("docker_restart", {"container_name": "grafana"}, id=f"kept-{number}")
            backend.client.publish("cockpit-agent:web-01", json.dumps(message))
        wait_until(lambda: [each["kind"] for each in agent.audit].count("started") == 3, "their start")
        redis.stop()
        kept = agent.folder / "data" / "answers.jsonl"
        wait_until(lambda: kept.exists() and len(kept.read_bytes().splitlines()) == 3, "the answers on disk", 30)
        if killed:
            agent.process.kill()
            agent.process.wait()
        redis.start()
        with backend.client.pubsub() as channel:
            channel.subscribe("cockpit-agent-response:web-01")
            if killed:
                agent = start_agent(tmp_path / "agent", redis, GATEPOST_ALLOW_UNSIGNED_HOSTS="true", **env)
            got: list[str] = []
            while len(got) < 3:
                message = wait_until(lambda: channel.get_message(timeout=0.2), "an answer", 30)
                if message["type"] == "message":
                    got.append(json.loads(message["data"])["command_id"])
        assert sorted(got) == ["kept-0", "kept-1", "kept-2"]
        wait_until(lambda: not kept.exists(), "an empty outbox")
        backend.listening(agent)
        assert backend.ask("web-01", "echo")["output"] == "pong"
        assert agent.stop() == 0
