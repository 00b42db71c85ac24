"""Our runner in a real Django project, against a real server over HTTP."""

import contextlib
import io
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.cli.main import main
from tests import serving
from tests.conftest import StartServer
from tests.e2e.test_published_runners import Project
from tests.runner.shop import Shop
from tests.serving import Server, all_processes, wait_until

Begin = Callable[..., tuple[Project, Shop]]


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

    def create(server: Server, key: str = "", **settings: Any) -> tuple[Project, Shop]:
        shop = Shop(tmp_path / f"shop{len(opened) or ''}")
        shop.create(GATEPOST_API_KEY=key or new_key(server), GATEPOST_SERVER_URL=server.url, **settings)
        opened.append((Project(server), shop))
        return opened[-1]

    yield create
    for project, shop in opened:
        shop.end()
        project.client.close()


def allow(project: Project, shop: Shop) -> None:
    """Wait until the runner has listed its commands, and allow the own one."""
    shop.logged("The server knows")
    id = project.get("/api/django")[0]["project_id"]
    project.client.patch(f"/api/projects/{id}", json={"allowed_extra": ["act"]}).raise_for_status()


def test_a_command_runs_as_it_should(start_server: StartServer, begin: Begin) -> None:
    server = start_server()
    project, shop = begin(server)
    shop.start("-v", "2")
    allow(project, shop)
    spoken = project.run("act speak")
    end = project.ended(spoken)
    assert (end["status"], end["exit_code"]) == ("failed", 3)
    assert project.output(spoken, "stdout") == "Grüße\nno line endstdin: ''\n"
    assert project.output(spoken, "stderr") == "no coffee ***\n"
