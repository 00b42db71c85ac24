"""The published runners, as they are, in a Django project: nothing of them knows this server."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.cli.main import main
from backend.core.identity import Permission
from tests import serving
from tests.api.world import accounts, new_token
from tests.conftest import StartServer
from tests.django_project import configure, write_project
from tests.needs import need
from tests.serving import Server, wait_until

RUNNERS = {"managecommand": "MANAGECOMMAND", "djangocommand": "DJANGOCOMMAND"}  # the prefix of their settings
BOUND = 60.0  # seconds for what takes a start of Django

GREET = """\
import sys
from django.core.management.base import BaseCommand
class Command(BaseCommand):
    help = "Greet a customer"
    def add_arguments(self, parser):
        parser.add_argument("name")
        parser.add_argument("--loud", action="store_true")
    def handle(self, *args, **options):
        self.stdout.write(f"Hello {options['name']}")
        self.stderr.write("no coffee")
        sys.exit(3)
"""
LINGER = """\
import time
from django.core.management.base import BaseCommand
class Command(BaseCommand):
    def handle(self, *args, **options):
        self.stdout.write("here")
        time.sleep(600)
"""


@pytest.fixture(params=RUNNERS)
def package(request: pytest.FixtureRequest) -> str:
    need(importlib.util.find_spec("django"), "Django")
    need(importlib.util.find_spec(request.param), request.param)
    return str(request.param)


class Project:
    """The client of a server with the Django project `shop`, and what an administrator sees."""

    def __init__(self, server: Server) -> None:
        self.server = server

        async def token(identities: Any) -> str:
            root = await identities.user_named("admin")
            secret, _ = await new_token(identities, root.id, frozenset(Permission))
            return str(secret)

        headers = {"Authorization": f"Bearer {accounts(server.data_dir, token)}"}
        self.client = httpx.Client(base_url=server.url, headers=headers, timeout=30, verify=False)

    def get(self, path: str) -> Any:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def run(self, command: str, **fields: Any) -> str:
        """The id of an execution that was queued."""
        body = {"target": "django:shop", "command": command, **fields}
        answer = self.client.post("/api/executions", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def ended(self, id: str) -> Any:
        def end() -> Any:
            found = self.get(f"/api/executions/{id}")
            return found["status"] not in {"queued", "running"} and found

        return wait_until(end, f"the end of {id}", BOUND)

    def output(self, id: str, stream: str) -> str:
        return str(self.get(f"/api/executions/{id}/output?stream={stream}")["data"])

    def state(self) -> str:
        return str(self.get("/api/django")[0]["runners"][0]["state"])


def key_of(server: Server, capsys: pytest.CaptureFixture[str]) -> str:
    words = ["runner", "key", "create", "shop", "--owner", "admin", "--data-dir", str(server.data_dir)]
    assert main(words) == 0
    return capsys.readouterr().out.strip()


@pytest.fixture
def start_runner(tmp_path: Path) -> Iterator[Callable[[str, str, str], subprocess.Popen[bytes]]]:
    """Starts a published runner in a new Django project."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(package: str, url: str, key: str) -> subprocess.Popen[bytes]:
        folder = tmp_path / "project"
        own = {"greet": GREET, "linger": LINGER}
        prefix = RUNNERS[package]
        write_project(folder, own)
        configure(folder, package, prefix, tuple(own), **{f"{prefix}_API_KEY": key, f"{prefix}_SERVER_URL": url})
        environment = {**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
        words = [sys.executable, "manage.py", package, "start", "--no-reload", "-v", "2"]
        with (tmp_path / "runner.log").open("wb") as log:
            started.append(subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log))
        return started[-1]

    yield begin
    for running in started:
        running.terminate()
        running.wait(30)


@pytest.fixture
def project_of() -> Iterator[Callable[[Server], Project]]:
    """The project of a server, whose client is closed at the end."""
    opened: list[Project] = []

    def open_project(server: Server) -> Project:
        opened.append(Project(server))
        return opened[-1]

    yield open_project
    for each in opened:
        each.client.close()


def test_a_published_runner_works_unchanged(
    package: str,
    start_server: StartServer,
    start_runner: Any,
    project_of: Callable[[Server], Project],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = start_server()
    key = key_of(server, capsys)
    assert re.fullmatch(r"dc_[A-Za-z0-9_-]{43}", key)
    shop = project_of(server)
    start_runner(package, server.url, key)
    wait_until(lambda: shop.state() == "online", "the runner's heartbeat", BOUND)
    commands = wait_until(lambda: shop.get("/api/django/shop/commands")["commands"], "the commands", BOUND)
    assert {"migrate", "check", "greet"} <= {each["name"] for each in commands}
    [greet] = [each for each in commands if each["name"] == "greet"]
    assert [(each["name"], each["required"]) for each in greet["fields"]] == [("name", True), ("loud", False)]
    project = shop.get("/api/django")[0]["project_id"]
    shop.client.patch(f"/api/projects/{project}", json={"allowed_extra": ["greet", "linger"]}).raise_for_status()

    greeted = shop.run("greet 'Ann B' --loud")
    end = shop.ended(greeted)
    assert (end["status"], end["exit_code"], end["target"]) == ("failed", 3, f"django:{project}")
    assert (shop.output(greeted, "stdout"), shop.output(greeted, "stderr")) == ("Hello Ann B\n", "no coffee\n")
    if package == "managecommand":  # the other one has the same code for the rest
        check_hidden_and_cancelled(shop)
        lingering = shop.run("linger")
        wait_until(lambda: shop.output(lingering, "stdout") == "here\n", "the output of a command that runs", BOUND)
        server.kill()
        monkeypatch.setattr(serving, "free_port", lambda: server.port)
        check_cancelled(project_of(start_server()), lingering)
    assert "Traceback" not in server.logs
    assert key not in server.logs


def check_hidden_and_cancelled(shop: Project) -> None:
    lingering, hidden = shop.run("linger"), shop.run("greet secret", metadata_only=True)
    assert shop.ended(hidden)["exit_code"] == 3
    assert shop.output(hidden, "stdout") == ""
    wait_until(lambda: shop.output(lingering, "stdout") == "here\n", "the output of a command that runs", BOUND)
    check_cancelled(shop, lingering)


def check_cancelled(shop: Project, lingering: str) -> None:
    shop.client.post(f"/api/executions/{lingering}/cancel").raise_for_status()
    end = shop.ended(lingering)
    assert (end["status"], end["exit_code"], end["signal"]) == ("cancelled", 143, "SIGTERM")
