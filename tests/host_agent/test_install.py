"""What an operator of a host is told: `agent --check` and `host install`."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis as Client

from backend.core.hosts.naming import redis_rules
from backend.host_agent.handlers import handlers_of_file
from tests.accounts import gatepost
from tests.host_agent.agents import Backend, docker_stand_in, repositories, start_agent
from tests.needs import need
from tests.ports import free_port
from tests.redis_server import Redis, running_redis
from tests.serving import ROOT

SECRET = "x" * 64


def checked(folder: Path, code: int, **env: str) -> dict[str, str]:
    """What was found: the problem of each thing, empty where it is as it must be."""
    folder.mkdir(exist_ok=True)
    done = gatepost(
        folder, "agent", "--check", env={"AGENT_ID": "web-01", "DOCKER_CONTAINER_NAME": ",", **env}, code=code
    )
    found = {}
    for line in done.stdout.splitlines():
        name, _, problem = line[8:].partition(": ")
        found[name] = problem
        assert line.startswith("failed" if problem else "ok"), line
    assert SECRET not in done.stdout + done.stderr
    return found


@pytest.fixture
def whole(tmp_path: Path, redis: Redis) -> dict[str, str]:
    """The settings of an agent that lacks nothing."""
    places = repositories(tmp_path / "git")
    Client(unix_socket_path=str(redis.path)).execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "gatepost-host-web-01", *redis_rules("web-01", "password")
    )
    return {
        "REDIS_URL": f"redis+unix://gatepost-host-web-01:password@{redis.path}",
        "GATEPOST_HOST_SECRET": SECRET,
        "GIT_REPO_PATH": str(places.clone),
        "DOCKER_CONTAINER_NAME": "grafana",
        "GATEPOST_DOCKER_COMMAND": str(docker_stand_in(tmp_path / "bin")),
    }


def test_nothing_is_missing(tmp_path: Path, whole: dict[str, str]) -> None:
    found = checked(tmp_path, 0, **whole)
    repository = f"repository {whole['GIT_REPO_PATH']}"
    assert list(found) == ["secret", "redis", "acl", "clock", "protection", "handlers", repository, "docker"]


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"GATEPOST_HOST_SECRET": ""}, "secret", "GATEPOST_HOST_SECRET: set it to what"),
        ({"REDIS_URL": "redis+unix:///no/such.sock"}, "redis", "cannot be reached"),
        ({"REDIS_URL": "PASSWORD"}, "redis", "refuses the password"),
        ({"AGENT_ID": "web-02"}, "acl", "may not use agents:web-02"),
        ({"COCKPIT_SHARED_SECRET": "y" * 32}, "acl", "may not use cockpit-agent-response:web-01"),
        ({"GIT_REPO_PATH": "/no/such"}, "repository /no/such", "there is no clone"),
        ({"GIT_REPO_PATH": "FOREIGN"}, "repository FOREIGN", "belong"),
        ({"GATEPOST_DOCKER_COMMAND": "no-such-docker"}, "docker", "is not installed"),
        ({"AGENT_HANDLERS": "/no/such.py"}, "handlers", "AGENT_HANDLERS: /no/such.py"),
    ],
)
def test_what_is_missing_is_said(
    tmp_path: Path, whole: dict[str, str], changes: dict[str, str], name: str, words: str
) -> None:
    foreign = repositories(tmp_path / "foreign").clone
    if os.geteuid() == 0:
        os.chown(foreign, 0, 0)  # else it cannot be given away
    else:
        shutil.rmtree(foreign)
    texts = {"FOREIGN": str(foreign), "PASSWORD": whole["REDIS_URL"].replace(":password@", ":wrong@")}
    changes = {key: texts.get(value, value) for key, value in changes.items()}
    found = checked(tmp_path, 1, **{**whole, **changes})
    assert words in found[name.replace("FOREIGN", str(foreign))]
    assert sum(bool(problem) for problem in found.values()) == 1


def test_a_password_that_is_required_is_asked_for(tmp_path: Path) -> None:
    with running_redis("--requirepass", "hush") as redis:
        found = checked(tmp_path, 1, REDIS_URL=redis.url, GATEPOST_HOST_SECRET=SECRET)
        assert "password" in found["redis"]


def test_the_unit_is_one_that_systemd_accepts(tmp_path: Path) -> None:
    env = {"GIT_REPO_PATH": "/srv/app,/srv/other", "DOCKER_TIMEOUT": "100"}
    file = tmp_path / "gatepost-agent.service"
    done = gatepost(tmp_path, "host", "install", "--user", "root", "--output", str(file), env=env)
    assert "systemctl enable --now gatepost-agent" in done.stdout
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(file.read_text())
    service = unit["Service"]
    assert service["ExecStart"].endswith("-m backend agent")
    assert service["ReadWritePaths"] == "/var/lib/gatepost-agent -/srv/app -/srv/other"
    assert (service["TimeoutStopSec"], service["NoNewPrivileges"]) == ("130", "yes")
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not here")
    checked = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False)
    assert str(file.name) not in checked.stderr, checked.stderr
    assert gatepost(tmp_path, "host", "install", "--output", "-").stdout.startswith("[Unit]\n")
    gatepost(tmp_path, "host", "install", "--output", "/no/such/folder/x.service", code=1)


def test_tls(tmp_path: Path) -> None:
    need(shutil.which("openssl"), "openssl")
    port = str(free_port())
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True)
    options = ["--tls-port", port, "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    with running_redis(*options, "--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no") as redis:
        env = {"REDIS_URL": "", "REDIS_HOST": "localhost", "REDIS_PORT": port, "REDIS_TLS": "true", "AGENT_ID": "tls-1"}
        env |= {"REDIS_TLS_CA": str(certificate), "GATEPOST_ALLOW_UNSIGNED_HOSTS": "true"}
        agent = start_agent(tmp_path / "agent", redis, "tls-1", **env)
        backend = Backend.on(redis)
        backend.listening(agent)
        assert backend.ask("tls-1", "echo")["output"] == "pong"
        assert agent.stop() == 0
        untrusted = checked(tmp_path, 1, **{**env, "REDIS_TLS_CA": ""})
        assert "TLS" in untrusted["redis"]


def page() -> str:
    return (ROOT / "docs/hosts.md").read_text()


def test_the_steps_of_the_page_can_be_taken(tmp_path: Path, redis: Redis) -> None:
    """Those on the server, then the agent with what they print."""
    gatepost(tmp_path, "user", "add", "ann", "--no-password")
    lines = re.findall(r"^    python3 run\.py (host (?:enroll|grant |withdraw|grants).*)$", page(), re.M)
    assert len(lines) >= 4
    printed = [gatepost(tmp_path, *shlex.split(line)).stdout for line in lines if "--project" not in line]
    settings = dict(line.split("=", 1) for line in printed[0].splitlines() if re.match("[A-Z_]+=", line))
    shown = re.findall(r"^    ([A-Z_]+)=(?:\.\.\.|[a-z0-9-]+)$", page(), re.M)
    assert list(settings) == shown
    (acl,) = re.findall("^ACL SETUSER .+$", printed[0], re.M)
    Client(unix_socket_path=str(redis.path)).execute_command(*acl.split())  # type: ignore[no-untyped-call]
    url = f"redis+unix://{settings['REDIS_USERNAME']}:{settings['REDIS_PASSWORD']}@{redis.path}"
    found = checked(tmp_path / "host", 1, **{**settings, "REDIS_URL": url})
    assert (found["secret"], found["redis"], found["acl"]) == ("", "", "")


def test_the_handler_of_the_page_is_one(tmp_path: Path, redis: Redis) -> None:
    (code,) = re.findall(r"^```python\n(.+?)^```", page(), re.M | re.S)
    file = tmp_path / "handlers.py"
    file.write_text(code)
    assert [each.name for each in handlers_of_file(file)] == ["deploy"]


def test_an_agent_imports_nothing_that_only_servers_need() -> None:
    """It is to be small: each of these takes megabytes."""
    names = "fastapi starlette uvicorn slowapi limits alembic asyncpg httpx websockets tree_sitter dotenv cryptography.fernet"
    code = (
        f"import sys, backend.cli.agent, backend.runtime.host_agent; print(*sys.modules.keys() & {set(names.split())})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
