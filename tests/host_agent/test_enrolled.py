"""Enrolled hosts: jobs over streams, run once each, whatever dies or restarts meanwhile."""

import json
import os
import re
import secrets
import shlex
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as Client
from redis.exceptions import NoPermissionError

from backend.core.hosts.envelope import Envelope, Party
from backend.core.hosts.messages import SeenIds
from backend.core.hosts.naming import redis_rules
from backend.runtime.clock import new_id
from tests.accounts import gatepost
from tests.api.world import ROOMY, running_world
from tests.host_agent.agents import Agent, start_agent
from tests.host_agent.test_from_server import Service, _folder
from tests.redis_server import Redis, running_redis
from tests.serving import start as start_server
from tests.serving import wait_until

# Counts its runs in the folder that it works in.
DOCKER = """#!/bin/sh
echo "$2" >> runs
case "$2" in
  slow) trap 'echo got a signal; exit 3' INT; echo begins; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 1; done;;
  brief) sleep 1; echo done;;
  flood) head -c 10000000 /dev/zero | tr '\\0' 'x' | fold -w 99;;
  many) i=0; while test $i -lt 20000; do echo "line $i"; i=$((i+1)); done;;
  ticks) i=0; while test $i -lt 20; do echo "tick $i"; sleep 0.3; i=$((i+1)); done;;
  c*) sleep 0.2; echo "$2";;
  *) echo "$2";;
esac
"""


def enroll(folder: Path, host: str, *words: str) -> tuple[dict[str, str], list[str]]:
    """The settings that `host enroll` prints, and the words of its command for Redis."""
    lines = gatepost(folder, "host", *(words or ("enroll", host))).stdout.splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith(("#", "ACL")))
    return settings, shlex.split(next(line for line in lines if line.startswith("ACL ")))


def admin(redis: Redis) -> Any:
    return Client(unix_socket_path=str(redis.path))


def as_host(redis: Redis, settings: dict[str, str]) -> Any:
    user, password = settings["REDIS_USERNAME"], settings["REDIS_PASSWORD"]
    return Client(unix_socket_path=str(redis.path), username=user, password=password)


def begin(folder: Path, redis: Redis, settings: dict[str, str], **env: str) -> Agent:
    """Start the agent with what was printed, and wait until it is online."""
    user, password = settings["REDIS_USERNAME"], settings["REDIS_PASSWORD"]
    docker = folder / "docker"
    if not docker.exists():
        _make(docker)
    own = {
        "REDIS_URL": f"redis+unix://{user}:{password}@{redis.path}",
        "GATEPOST_HOST_SECRET": settings["GATEPOST_HOST_SECRET"],
        "AGENT_ID": settings["AGENT_ID"],
        "GATEPOST_DOCKER_COMMAND": str(docker),
        "DOCKER_CONTAINER_NAME": "slow,brief,many,flood,quick,ticks," + ",".join(f"c{number}" for number in range(50)),
        **env,
    }
    return start_agent(folder, redis, settings["AGENT_ID"], **own)


def _make(docker: Path) -> None:
    docker.parent.mkdir(exist_ok=True, mode=0o711)
    docker.write_text(DOCKER)
    docker.chmod(0o755)


def online(service: Service, host: str, agent: Agent) -> None:
    def ready() -> bool:
        assert agent.process.poll() is None, agent.log
        return bool(service.world.ask("root", "GET", f"/api/hosts/{host}").json().get("status") == "online")

    wait_until(ready, f"the host {host}\n{agent.log}", 30)


def runs(agent: Agent) -> list[str]:
    """What its stand-in for docker was called with."""
    counted = agent.folder / "data" / "workspace" / "runs"
    return counted.read_text().split() if counted.exists() else []


def all_finished(agent: Agent, ids: list[str]) -> bool:
    """Whether executions have ended on the host."""
    return set(ids) <= {each.get("execution") for each in agent.audit if each["kind"] == "finished"}


@contextmanager
def running(folder: Path, host: str = "web-01") -> Iterator[tuple[Service, dict[str, str]]]:
    """A server, a Redis and an enrolled host whose agent runs."""
    with running_redis() as redis:
        env = {"REDIS_URL": redis.url, "GATEPOST_USER_RATE": "1000/minute"}
        with running_world(_folder(folder / "server"), env) as world:
            settings, acl = enroll(folder / "server", host, "enroll", host, "--label", "env=test")
            admin(redis).execute_command(*acl)
            service = Service(world, redis, begin(folder / "agent", redis, settings))
            try:
                online(service, host, service.agent)
                yield service, settings
            finally:
                service.agent.stop()
                world.server.stop()  # one that a test has started again


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("enrolled")
    folder.chmod(0o711)
    with running(folder) as found:
        yield found


@pytest.fixture
def service(enrolled: tuple[Service, dict[str, str]]) -> Service:
    return enrolled[0]


def start(service: Service, container: str, **more: Any) -> str:
    answer = service.run("web-01", "docker_restart", {"container_name": container}, **more)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def output(service: Service, id: str) -> str:
    return str(service.world.ask("root", "GET", f"/api/executions/{id}/output?limit=1048576").json()["data"])


def test_a_command_runs_on_an_enrolled_host(service: Service) -> None:
    result = service.result(service.run("web-01", "echo", {"message": "hello"}))
    assert (result["status"], result["exit_code"], result["output"]) == ("succeeded", 0, "hello\n")
    result = service.result(service.run("web-01", "docker_restart", {"container_name": "quick"}))
    assert (result["status"], result["output"]) == ("succeeded", "quick\n")
    assert result["protection"] == "L2"
    [host] = service.world.ask("root", "GET", "/api/hosts").json()
    assert (host["id"], host["labels"]) == ("web-01", {"env": "test"})


def test_the_policy_of_the_host_has_the_last_word(service: Service) -> None:
    result = service.result(service.run("web-01", "docker_restart", {"container_name": "other"}))
    assert (result["status"], result["exit_code"]) == ("failed", 1)
    [error] = [each for each in service.world.server.recording(result["id"]) if each["type"] == "error"]
    assert "Container name not allowed" in error["message"]
    assert error["rule"] == "host.parameters"


def test_output_arrives_while_it_is_written_and_a_stop_ends_it(service: Service) -> None:
    id = start(service, "slow")
    wait_until(lambda: "begins" in output(service, id), "its first line")
    assert service.world.status(id) == "running"
    assert service.world.ask("root", "POST", f"/api/executions/{id}/cancel").status_code == 202
    assert service.world.ended(id) == "cancelled"
    assert "may still run" not in output(service, id)


def test_a_signal_reaches_the_host(service: Service) -> None:
    id = start(service, "slow")
    wait_until(lambda: "begins" in output(service, id), "its first line")
    assert service.world.ask("root", "POST", f"/api/executions/{id}/signal", {"signal": "INT"}).status_code == 202
    assert service.world.ended(id) == "failed"


def test_a_timeout_of_the_server_holds_on_the_host(service: Service) -> None:
    id = start(service, "slow", timeout=1)
    assert service.world.ended(id) == "timed_out"


def test_much_output_is_complete_and_bounded_in_redis(service: Service) -> None:
    id = start(service, "many")
    assert service.world.ended(id) == "succeeded"
    assert output(service, id).splitlines() == [f"line {number}" for number in range(20_000)]
    client = admin(service.redis)
    keys = list(client.scan_iter("gatepost:host:*"))
    assert keys
    wait_until(lambda: sum(client.xlen(key) for key in keys) == 0, "empty streams")
    assert all(client.ttl(key) > 0 for key in keys)


def test_a_server_that_does_not_read_is_waited_for(service: Service) -> None:
    """The output waits on the disk of the host, and a bounded part of it in Redis."""
    client, longest = admin(service.redis), 0
    id = start(service, "flood")
    wait_until(lambda: output(service, id), "its first output")
    os.kill(service.world.server.pid, signal.SIGSTOP)
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            lengths = [client.xlen(key) for key in client.scan_iter("gatepost:host:web-01:to:*")]
            if longest <= 32 < max([longest, *lengths]):
                end = time.monotonic() + 2  # in which it may not grow much
            longest = max([longest, *lengths])
    finally:
        os.kill(service.world.server.pid, signal.SIGCONT)
    assert 32 < longest <= 70
    assert service.world.ended(id) == "succeeded"
    assert service.world.ask("root", "GET", f"/api/executions/{id}/output?limit=4").json()["total_size"] == 10_101_010


def test_forged_messages_run_nothing_and_are_audited(enrolled: tuple[Service, dict[str, str]]) -> None:
    service, settings = enrolled
    client, before = admin(service.redis), len(runs(service.agent))
    own = Party("web-01", settings["GATEPOST_HOST_SECRET"])
    body = {"execution": "01J00000000000000000000000", "server": "s", "after": 0, "command": "docker_restart"}
    body |= {"params": {"container_name": "quick"}, "actor": "x", "timeout": 5, "expires": int(time.time()) + 20}
    nonce = secrets.token_hex(16)
    good = own.seal("host", "run", body, nonce, time.time())
    for message in (
        b"",
        Party("web-01", "another").seal("host", "run", body, "1", time.time()),
        Party("db-01", own.secret).seal("host", "run", body, "2", time.time()),
        own.seal("server", "run", body, "3", time.time()),
        own.seal("host", "run", body, "4", time.time() - 1000),
        good.replace(b"quick", b"brief"),
    ):
        client.xadd("gatepost:host:web-01:jobs", {"m": message})
    wait_until(
        lambda: sum(each["kind"] == "rejected" for each in service.agent.audit) >= 6, f"events\n{service.agent.log}"
    )
    assert len(runs(service.agent)) == before
    assert re.search(r"its clock and this one differ by 100\d s", service.agent.log)
    assert "NTP" in service.agent.log
    late = {**body, "execution": "01J00000000000000000000001", "expires": int(time.time()) - 1}
    client.xadd("gatepost:host:web-01:jobs", {"m": own.seal("host", "run", late, "5", time.time())})
    for _ in range(2):  # the same message twice, and once more in a new envelope
        client.xadd("gatepost:host:web-01:jobs", {"m": good})
    client.xadd("gatepost:host:web-01:jobs", {"m": own.seal("host", "run", body, "6", time.time())})
    wait_until(lambda: len(runs(service.agent)) > before, "the run")

    def ends() -> int:
        return sum(b'"end":{' in fields[b"m"] for _, fields in client.xrange("gatepost:host:web-01:to:s"))

    wait_until(lambda: ends() >= 2, "the refusal of the late one, and the end of the other")
    client.xadd("gatepost:host:web-01:jobs", {"m": own.seal("host", "run", body, "7", time.time())})
    wait_until(lambda: ends() >= 3, "its end once more", 30)
    service.result(service.run("web-01", "docker_restart", {"container_name": "c1"}))
    assert len(runs(service.agent)) == before + 2


def test_answers_that_a_server_does_not_read_wait_and_block_no_other_server(
    enrolled: tuple[Service, dict[str, str]],
) -> None:
    service, settings = enrolled
    client, own, seen = admin(service.redis), Party("web-01", settings["GATEPOST_HOST_SECRET"]), SeenIds()
    replies, ids = "gatepost:host:web-01:to:slow-reader", [new_id() for _ in range(160)]
    body = {"server": "slow-reader", "after": 0, "command": "echo", "params": {"message": "x" * 9000}, "actor": "x"}
    for begin in range(0, len(ids), 40):  # fewer than one account may run at once
        for id in ids[begin : begin + 40]:
            job = {**body, "execution": id, "timeout": 5, "expires": int(time.time()) + 60, "first": True}
            message = own.seal("host", "run", job, secrets.token_hex(16), time.time())
            client.xadd("gatepost:host:web-01:jobs", {"m": message})
        wait_until(partial(all_finished, service.agent, ids[: begin + 40]), "their ends on the host", 30)
    assert service.result(service.run("web-01", "echo"))["status"] == "succeeded"
    assert client.xlen(replies) <= 128  # those that are unread, and those that were being sent
    outputs, ended = Counter[str](), set()

    def all_ended() -> bool:
        for entry, fields in client.xrange(replies):
            client.xdel(replies, entry)
            message = own.open(fields[b"m"], "server", time.time(), seen)
            assert isinstance(message, Envelope), message
            outputs[message.body["execution"]] += message.output.count(b"x" * 9000)
            if end := message.body.get("end"):
                assert end["status"] == "succeeded", end
                ended.add(message.body["execution"])
        return ended == set(ids)

    wait_until(all_ended, "all answers", 60)
    assert outputs == dict.fromkeys(ids, 1)


def test_a_host_reaches_only_its_own_keys(enrolled: tuple[Service, dict[str, str]]) -> None:
    service, settings = enrolled
    host = as_host(service.redis, settings)
    assert host.xlen("gatepost:host:web-01:jobs") >= 0
    for refused in (
        ("XADD", "gatepost:host:db-01:jobs", "*", "m", "x"),
        ("XLEN", "gatepost:host:db-01:jobs"),
        ("XREADGROUP", "GROUP", "agent", "agent", "STREAMS", "gatepost:host:web-010:jobs", ">"),
        ("HSET", "agents:db-01", "status", "online"),
        ("HGETALL", "agents:web-01"),
        ("PUBLISH", "cockpit-agent:web-01", "x"),
        ("SUBSCRIBE", "cockpit-agent:db-01"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("GET", "gatepost:hosts:seen"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("EVAL", "return 1", "0"),
    ):
        with pytest.raises(NoPermissionError):
            host.execute_command(*refused)
    assert redis_rules("web-01", "x")[:2] == ("reset", "on")


def test_a_forged_entry_is_not_shown(enrolled: tuple[Service, dict[str, str]]) -> None:
    service, _ = enrolled
    gatepost(service.world.server.folder, "host", "enroll", "forged")
    admin(service.redis).hset("agents:forged", mapping={"status": "online", "last_heartbeat": int(time.time())})
    assert service.world.ask("root", "GET", "/api/hosts/forged").json()["status"] == "offline"
    result = service.result(service.run("forged", "echo"))
    assert result["status"] == "failed"
    gatepost(service.world.server.folder, "host", "revoke", "forged")
    assert service.world.ask("root", "GET", "/api/hosts/forged").status_code == 404


def test_rotating_and_revoking(enrolled: tuple[Service, dict[str, str]]) -> None:
    service, settings = enrolled
    folder = service.world.server.folder
    _ = enroll(folder, "second")
    rotated, _ = enroll(folder, "second", "rotate", "second")
    assert rotated["GATEPOST_HOST_SECRET"] != settings["GATEPOST_HOST_SECRET"]
    rows = [json.loads(line) for line in gatepost(folder, "host", "list", "--json").stdout.splitlines()]
    assert {"id": "web-01", "labels": {"env": "test"}, "revoked": False} in rows
    assert "DELUSER" in gatepost(folder, "host", "revoke", "second").stdout
    assert gatepost(folder, "host", "rotate", "second", code=1).stderr == "gatepost: there is no host second\n"
    again, _ = enroll(folder, "second")
    assert again["GATEPOST_HOST_SECRET"] not in {rotated["GATEPOST_HOST_SECRET"]}
    gatepost(folder, "host", "revoke", "second")
    assert {"host_enrolled", "host_rotated", "host_revoked"} <= {each["kind"] for each in service.world.events()}
    for wrong in ("a:b", "*", "", "x" * 65):
        gatepost(folder, "host", "enroll", wrong, code=2)
    twice = ("--label", "env=production", "--label", "env=test")
    for verb in (("enroll", "third"), ("grant", "--user", "ann")):
        assert "each name may be given once" in gatepost(folder, "host", *verb, *twice, code=1).stderr


def test_a_job_does_not_run_on_two_agents_with_one_id(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    with running(tmp_path) as (service, settings):
        twin = begin(tmp_path / "twin", service.redis, settings)  # a copy of the machine, with a data folder of its own
        try:
            ids = [start(service, "slow", timeout=60) for _ in range(4)]
            # A job that says nothing is asked for again every 3 s, from whichever agent reads it.
            wait_until(lambda: "another agent" in twin.log + service.agent.log, "one that came to the other", 60)
            assert len(runs(service.agent) + runs(twin)) == 4
            assert {service.world.status(id) for id in ids} == {"running"}
        finally:
            twin.stop()


def test_a_host_that_was_used_just_now_is_used_with_its_new_secrets(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    with running(tmp_path) as (service, _):
        assert service.result(service.run("web-01", "echo"))["status"] == "succeeded"
        rotated, acl = enroll(service.world.server.folder, "web-01", "rotate", "web-01")
        admin(service.redis).execute_command(*acl)
        service.agent.stop()
        service.agent = begin(tmp_path / "agent", service.redis, rotated)
        online(service, "web-01", service.agent)
        assert service.result(service.run("web-01", "echo"))["status"] == "succeeded"


def test_hosts_are_granted_by_label(enrolled: tuple[Service, dict[str, str]]) -> None:
    service, _ = enrolled
    world, folder = service.world, service.world.server.folder

    def visible(who: str) -> list[str]:
        return [each["id"] for each in world.ask(who, "GET", "/api/hosts").json()]

    assert (visible("ann"), visible("cleo"), visible("vic")) == ([], [], [])
    gatepost(folder, "host", "grant", "--user", "ann", "--label", "env=production")
    assert visible("ann") == []
    gatepost(folder, "host", "grant", "--user", "ann", "--label", "env=test")
    assert visible("ann") == ["web-01"]
    assert service.result(service.run("web-01", "echo", who="ann"))["status"] == "succeeded"
    assert service.run("web-01", "echo", who="bob").status_code == 404
    gatepost(folder, "host", "grant", "--project", world.project, "--label", "env=test")
    assert (visible("cleo"), visible("vic"), visible("bob")) == (["web-01"], ["web-01"], [])
    assert service.run("web-01", "echo", who="vic").status_code == 403  # may view only
    body = {"labels": {"env": "test"}, "command": "echo"}
    assert world.ask("cleo", "POST", "/api/hosts/commands", body).json()["summary"] == {"succeeded": 1}
    assert world.ask("bob", "POST", "/api/hosts/commands", body).status_code == 404
    assert world.ask("cleo", "POST", "/api/hosts/commands", {"command": "echo"}).status_code == 422
    assert len(gatepost(folder, "host", "grants", "--json").stdout.splitlines()) == 3
    gatepost(folder, "host", "withdraw", "--user", "ann", "--label", "env=test")
    gatepost(folder, "host", "withdraw", "--project", world.project, "--label", "env=test")
    assert (visible("ann"), visible("cleo")) == ([], [])
    gatepost(folder, "host", "withdraw", "--user", "ann", "--all", code=1)
    assert (
        "there is no user nobody-here"
        in gatepost(folder, "host", "grant", "--user", "nobody-here", "--all", code=1).stderr
    )
    assert {"host_granted", "host_withdrawn"} <= {each["kind"] for each in world.events()}


def test_secrets_are_in_no_log_and_no_record(enrolled: tuple[Service, dict[str, str]]) -> None:
    service, settings = enrolled
    service.result(service.run("web-01", "echo", {"message": "x", "password": "hush-hush"}))
    texts = service.world.server.logs + service.agent.log + json.dumps(service.world.events())
    texts += json.dumps(service.agent.audit)
    for secret in ("hush-hush", settings["GATEPOST_HOST_SECRET"], settings["REDIS_PASSWORD"]):
        assert secret not in texts


def restart(service: Service, settings: dict[str, str]) -> None:
    """Redis ends, and comes back without its data; the operator has saved the users."""
    service.redis.stop()
    service.redis.start()
    rules = redis_rules("web-01", settings["REDIS_PASSWORD"])
    admin(service.redis).execute_command("ACL", "SETUSER", settings["REDIS_USERNAME"], *rules)


def test_redis_restarts_during_fifty_commands(tmp_path: Path) -> None:
    """Once while no agent has read them, once while they run: none is lost, none runs twice."""
    with running(tmp_path) as (service, settings):
        os.kill(service.agent.process.pid, signal.SIGSTOP)
        try:
            started = [start(service, f"c{number}") for number in range(25)]
            restart(service, settings)
        finally:
            os.kill(service.agent.process.pid, signal.SIGCONT)
        online(service, "web-01", service.agent)
        started += [start(service, f"c{number}") for number in range(25, 50)]
        wait_until(lambda: {"c25", "c26"} & set(runs(service.agent)), "the second half to begin", 30)
        restart(service, settings)
        ends = [service.world.ended(id) for id in started]
        assert set(ends) == {"succeeded"}, service.agent.log
        assert sorted(runs(service.agent)) == sorted(f"c{number}" for number in range(50))
        assert [output(service, id) for id in started] == [f"c{number}\n" for number in range(50)]


def test_a_line_runs_on_a_host_and_its_output_arrives_live(enrolled: tuple[Service, dict[str, str]]) -> None:
    service, _ = enrolled
    folder = service.world.server.folder
    settings, acl = enroll(folder, "lines")
    admin(service.redis).execute_command(*acl)
    agent = begin(service.agent.folder.parent / "lines", service.redis, settings, AGENT_RUN_PROFILE="agent")
    try:
        online(service, "lines", agent)
        body = {"command": "@lines run 'echo one > a && tail -f a'"}
        id = service.world.ask("root", "POST", "/api/executions", body).json()["id"]
        wait_until(lambda: output(service, id).startswith("one\n"), "its first line")
        assert service.world.ask("root", "POST", f"/api/executions/{id}/cancel").status_code == 202
        assert service.world.ended(id) == "cancelled"
        result = service.result(service.run("lines", "run", {"line": "sudo id"}))
        assert (result["status"], result["exit_code"]) == ("failed", 126)
    finally:
        agent.stop()


def test_an_agent_that_was_killed_takes_up_what_it_had_not_begun(tmp_path: Path) -> None:
    with running(tmp_path) as (service, settings):
        running_ids = [start(service, "slow") for _ in range(4)]
        wait_until(lambda: len(runs(service.agent)) == 4, "four commands")
        waiting = start(service, "brief")
        wait_until(lambda: admin(service.redis).xlen("gatepost:host:web-01:jobs") == 1, "the fifth to be received")
        service.agent.process.kill()
        service.agent.process.wait()
        service.agent = begin(tmp_path / "agent", service.redis, settings)
        assert [service.world.ended(id) for id in running_ids] == ["lost"] * 4
        assert service.world.ended(waiting) == "succeeded"
        assert sorted(runs(service.agent)) == ["brief", "slow", "slow", "slow", "slow"]


def test_a_host_that_dies_loses_what_it_ran(tmp_path: Path) -> None:
    with running(tmp_path) as (service, _):
        id = start(service, "slow")
        wait_until(lambda: "begins" in output(service, id), "its first line")
        service.agent.process.kill()
        service.agent.process.wait()
        assert (
            wait_until(lambda: service.world.status(id) != "running" and service.world.status(id), "its end", 60)
            == "lost"
        )
        [error] = [each for each in service.world.server.recording(id) if each["type"] == "error"]
        assert error["rule"] == "host.lost"
        assert service.world.ask("root", "GET", "/api/hosts/web-01").json()["status"] == "offline"
        result = service.result(service.run("web-01", "echo"))  # at once
        assert result["status"] == "failed"


def is_over(service: Service, id: str) -> bool:
    """Whether an execution has ended; one whose server died waits until it is taken up."""
    return service.world.status(id) not in {"running", "queued"}


def numbered(service: Service, id: str) -> list[int]:
    """The numbers of the messages of a recording, as it is stored."""
    return [message["seq"] for message in service.world.server.recording(id)]


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_server_that_starts_again_takes_up_what_its_host_runs(
    enrolled: tuple[Service, dict[str, str]], how: str
) -> None:
    service, _ = enrolled
    server, folder = service.world.server, service.world.server.folder
    before = len(runs(service.agent))
    going, done = start(service, "ticks"), start(service, "brief")
    wait_until(lambda: "tick 2" in output(service, going), "some output")
    if how == "killed":
        server.kill()
    else:
        server.stop()
    env = {"REDIS_URL": service.redis.url, "GATEPOST_USER_RATE": "1000/minute"}
    service.world.server = start_server(folder, {**ROOMY, **env})
    for id in (going, done):
        wait_until(partial(is_over, service, id), "its end", 60)
        assert service.world.status(id) == "succeeded"
    assert output(service, going).splitlines() == [f"tick {number}" for number in range(20)]
    assert numbered(service, going) == list(range(1, 23))
    assert output(service, done).splitlines()[-1:] == ["done"]
    assert runs(service.agent)[before:] in (["ticks", "brief"], ["brief", "ticks"])
    result = service.result(service.run("web-01", "echo"))
    assert result["status"] == "succeeded"
    gatepost(folder, "audit", "verify")
