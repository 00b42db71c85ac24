"""docs/django.md: from a new Django project to a schedule, run as it is written; and the settings of the runner."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gatepost_django.configuration import NAMES
from tests.conftest import StartServer
from tests.needs import need
from tests.serving import ROOT
from tests.test_examples import Example, Session, check, examples, run_page

PAGE = ROOT / "docs/django.md"
RUNNER = ROOT / "runner"


def test_the_page_does_what_it_says(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    need(shutil.which("curl"), "curl")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin")
    blocks = examples(PAGE.read_text())
    installed = Example(99, "sh", f"export PYTHONPATH={RUNNER}\n", None)  # in place of `pip install ./runner`
    server = start_server()
    (server.folder / "run.py").symlink_to(ROOT / "run.py")
    try:
        run_page([installed, *blocks], server, server.folder)
        for block in blocks:
            check(Session(server, server.folder), block)
        assert sum(block.shown is not None for block in blocks) > 4
    finally:
        stop(server.folder)


def stop(folder: Path) -> None:
    """Stop the runner where a block before that has failed."""
    environment = {"HOME": str(folder), "PYTHONPATH": str(RUNNER), "GATEPOST_API_KEY": "", "PATH": "/usr/bin:/bin"}
    line = [sys.executable, "shop/manage.py", "gatepost", "stop", "--force"]
    subprocess.run(line, cwd=folder, env=environment, capture_output=True, check=False)


def test_a_project_imports_no_http_client_unless_it_runs_a_runner() -> None:
    code = "import sys, gatepost_django.apps, gatepost_django.management.commands.gatepost; print('requests' in sys.modules)"
    line = [sys.executable, "-c", f"{code}; gatepost_django.Agent is gatepost_django.Runner or sys.exit(1)"]
    done = subprocess.run(line, env={"PYTHONPATH": str(RUNNER)}, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_every_setting_is_in_the_table() -> None:
    page = PAGE.read_text()
    assert [name for name in NAMES if f"| `GATEPOST_{name}` |" not in page] == []


def test_what_is_packed_is_what_there_is() -> None:
    project = tomllib.loads((RUNNER / "pyproject.toml").read_text())
    folders = {path.parent for path in RUNNER.rglob("*.py") if "build" not in path.parts}
    packages = [".".join(folder.relative_to(RUNNER).parts) for folder in folders]
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(packages)
    assert [each.split(">=")[0] for each in project["project"]["dependencies"]] == ["Django", "requests"]
    assert f'VERSION = "{project["project"]["version"]}"' in (RUNNER / "gatepost_django/version.py").read_text()
