"""Our runner in a real Django project, against a real server over HTTP."""

import contextlib
import io
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import run
from backend.cli.main import main
from tests import serving
from tests.conftest import StartServer
from tests.e2e.test_published_runners import Project
from tests.needs import need
from tests.runner.shop import BOUND, Shop
from tests.serving import ROOT, Server, all_processes, wait_until

Begin = Callable[..., tuple[Project, Shop]]
MINUTE = 60.0  # seconds that the server is away
ASKED_OFTEN = {"GATEPOST_API_RATE": "60000/minute", "GATEPOST_USER_RATE": "1000/minute"}


def new_key(server: Server) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        words = ["runner", "key", "create", "shop", "--owner", "admin", "--data-dir", str(server.data_dir)]
        assert main(words) == 0
    return said.getvalue().strip()


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Creates the project `shop` on a server and in a folder."""
    opened: list[tuple[Project, Shop]] = []

    def create(server: Server, key: str = "", **environment: str) -> tuple[Project, Shop]:
        shop = Shop(tmp_path / "shop", environment)
        shop.create(GATEPOST_API_KEY=key or new_key(server), GATEPOST_SERVER_URL=server.url)
        opened.append((Project(server), shop))
        return opened[-1]

    yield create
    for project, shop in opened:
        shop.end()
        project.client.close()


def allow(project: Project, shop: Shop) -> None:
    """Wait until the runner is accepted, after it has listed its commands, and allow the own one."""
    shop.logged("The server has accepted")
    id = project.get("/api/django")[0]["project_id"]
    project.client.patch(f"/api/projects/{id}", json={"allowed_extra": ["act"]}).raise_for_status()


@pytest.fixture(scope="session")
def django_4_2() -> Path:
    """The folder with the oldest Django that is supported, which is installed once on a machine."""
    requirements = ROOT / "tests/requirements-django-4.2.txt"
    pin = requirements.read_text().split()[-1]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gatepost-tests" / pin
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=folder.parent))
        words = [
            *run.pip(),
            "-q",
            "--no-deps",
            "--no-compile",
            "--target",
            new,
            pin,
        ]  # the environment has none of its own
        need(subprocess.run(words, check=False).returncode == 0, pin)
        with contextlib.suppress(OSError):  # another process was first
            new.rename(folder)
    return folder


def ended(project: Project, id: str) -> Any:
    """An execution when it has ended."""
    with project.client.stream("GET", f"/api/executions/{id}/events", timeout=BOUND) as events:
        for _ in events.iter_lines():
            pass
    return project.get(f"/api/executions/{id}")


def left(mark: str) -> list[str]:
    """The processes with a mark on their command line."""
    return [each.command for each in all_processes().values() if mark in each.command and each.state != "Z"]


def test_a_command_runs_as_it_should(server: Server, begin: Begin) -> None:
    project, shop = begin(server)
    shop.start("-v", "2")
    allow(project, shop)
    spoken, hidden = project.run("act speak"), project.run("act speak", metadata_only=True)
    end = ended(project, spoken)
    assert (end["status"], end["exit_code"]) == ("failed", 3)
    assert project.output(spoken, "stdout") == "Grüße\nno line endstdin: ''\n"
    assert project.output(spoken, "stderr") == "no coffee ***\n"
    assert ended(project, hidden)["exit_code"] == 3
    assert project.output(hidden, "stdout") == ""
    (shop.folder / "link").symlink_to("/etc")  # which the server does not see
    rejected = project.run("act speak link/passwd")
    assert ended(project, rejected)["exit_code"] == 125
    assert "leads out" in project.output(rejected, "stderr")

    cancelled = project.run("act leave cancelled")
    wait_until(lambda: project.output(cancelled, "stdout") == "left\n", "its output", BOUND)
    assert left("left-by-cancelled")
    project.client.post(f"/api/executions/{cancelled}/cancel").raise_for_status()
    assert ended(project, cancelled)["signal"] == "SIGTERM"
    assert not left("left-by-cancelled")

    forced = project.run("act leave forced")
    wait_until(lambda: left("left-by-forced"), "its process", BOUND)
    status = shop.status()
    assert (status["status"], status["server"]) == ("running", "active")
    assert [each["command"] for each in status["running"]] == ["act"]
    assert "has stopped" in shop.manage("gatepost", "stop", "--force")
    assert not left("left-by-forced")
    assert ended(project, forced)["status"] == "cancelled"
    assert shop.status() == {"status": "stopped"}
    shared = [path for path in (shop.folder / "state").rglob("*") if path.is_dir() and path.stat().st_mode & 0o077]
    assert [path.name for path in shared if path.name in {"default", "spool"}] == []


def test_a_server_that_dies_costs_no_line_and_no_second_run(
    start_server: StartServer, begin: Begin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = start_server()
    project, shop = begin(server)
    shop.start("-v", "2")
    allow(project, shop)
    go = shop.folder / "go"
    counted = project.run("act count go")
    wait_until(lambda: project.output(counted, "stdout").endswith("line 150\nhalf"), "half a line", BOUND)
    server.kill()
    go.touch()
    shop.logged("act has ended")
    monkeypatch.setattr(serving, "free_port", lambda: server.port)
    start_server()
    assert ended(project, counted)["status"] == "succeeded"
    lines = [f"line {number}" for number in range(300)]
    lines.insert(151, "half")
    assert project.output(counted, "stdout").splitlines() == lines
    assert (shop.folder / "go.runs").read_text() == "one\n"


def test_a_server_that_is_away_for_a_minute_costs_no_line(
    start_server: StartServer, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server(ASKED_OFTEN)
    project, shop = begin(server)
    shop.start("-v", "2")
    allow(project, shop)
    ticking = project.run("act tick over", timeout=300)
    wait_until(lambda: "line 20\n" in project.output(ticking, "stdout"), "its first lines", BOUND)
    printed = shop.folder / "over.printed"
    server.kill()
    begun, before = time.monotonic(), printed.stat().st_size
    wait_until(lambda: time.monotonic() - begun >= MINUTE, "the end of the outage", 2 * MINUTE)
    away = printed.stat().st_size - before
    monkeypatch.setattr(serving, "free_port", lambda: server.port)
    start_server(ASKED_OFTEN)
    returned = time.monotonic()
    wait_until(
        lambda: f"line {before + away}\n" in project.output(ticking, "stdout"), "what was printed meanwhile", 2 * MINUTE
    )
    print(f"{away} lines were printed while the server was away; it had them {time.monotonic() - returned:.1f} s later")
    (shop.folder / "over").touch()
    assert ended(project, ticking)["status"] == "succeeded"
    lines = project.output(ticking, "stdout").splitlines()
    assert lines == [f"line {number}" for number in range(printed.stat().st_size)]
    assert away > MINUTE  # of some fifty in a second


@pytest.mark.parametrize("count", [20, 200])
def test_two_runners_run_each_execution_once(request: pytest.FixtureRequest, begin: Begin, count: int) -> None:
    many = count > 20  # more than an account may start and ask for in a minute
    server = request.getfixturevalue("start_server")(ASKED_OFTEN) if many else request.getfixturevalue("server")
    project, shop = begin(server)
    runners = [shop.start("-v", "2", "--name", name) for name in ("a", "b")]
    shop.logged("The server has accepted", times=2)
    allow(project, shop)
    executions = [project.run(f"act once {number}.once") for number in range(count)]
    assert {ended(project, each)["status"] for each in executions} == {"succeeded"}
    assert [path.read_text() for path in shop.folder.glob("*.once")] == ["one\n"] * count
    for each in runners:
        each.send_signal(signal.SIGTERM)
        assert each.wait(BOUND) == 0
    assert not list((shop.folder / "state").rglob("*.jsonl"))


def test_django_4_2_and_the_settings_of_a_published_runner(server: Server, begin: Begin, django_4_2: Path) -> None:
    key = new_key(server)
    project, shop = begin(server, key, PYTHONPATH=str(django_4_2))
    shop.configure(MANAGECOMMAND_API_KEY="no key", MANAGECOMMAND_SERVER_URL="http://gate.example.com")
    said = shop.manage("check", code=1)
    assert "(gatepost.E001) MANAGECOMMAND_API_KEY is not the key of a runner" in said
    assert "(gatepost.E002) MANAGECOMMAND_SERVER_URL would send the key to gate.example.com unencrypted." in said
    assert "HINT: Create one on the server" in said
    assert "(gatepost.W001) Settings have the names of another runner: MANAGECOMMAND_API_KEY" in said
    shop.configure(MANAGECOMMAND_API_KEY=key, MANAGECOMMAND_SERVER_URL=server.url)
    assert "The runner has started" in shop.manage("gatepost", "start", "-d")
    try:
        wait_until(lambda: project.state() == "online", "the heartbeat", BOUND)
        assert project.get("/api/django")[0]["runners"][-1]["django_version"].startswith("4.2.")
        checked = project.run("check")
        assert ended(project, checked)["status"] == "succeeded"
        assert "gatepost.W001" in project.output(checked, "stderr")
    finally:
        assert "has stopped" in shop.manage("gatepost", "stop")
