"""The application as a value: made from settings, several in one process, none of them sharing anything."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

import backend.runtime.wiring
from backend.core.policy.profile import ProfileError
from backend.runtime.clock import new_id
from backend.runtime.settings import Settings, SettingsError
from backend.runtime.wiring import create_app
from tests.serving import ROOT


@pytest.fixture(autouse=True)
def keep_logging() -> Iterator[None]:
    """Making an application takes over the logs of the process; give them back."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level


def make(folder: Path, **values: Any) -> FastAPI:
    return create_app(Settings(data_dir=folder, **values))


async def get(app: FastAPI, path: str, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gatepost.test") as client:
        return await client.get(path, headers=headers)


async def test_two_applications_live_side_by_side(tmp_path: Path) -> None:
    first = make(tmp_path / "1", anthropic_api_key="key", http_rate="1/minute")
    second = make(tmp_path / "2", metrics=False)
    assert (await get(first, "/health")).json()["api_key_configured"] is True
    assert (await get(second, "/health")).json()["api_key_configured"] is False
    assert [(await get(first, "/")).status_code for _ in range(2)] == [200, 429]
    assert (await get(second, "/")).status_code == 200
    assert [(await get(app, "/metrics")).status_code for app in (first, second)] == [200, 404]


async def test_the_front_door_knows_browsers(tmp_path: Path) -> None:
    app = make(tmp_path)
    assert (await get(app, "/", accept="text/html")).headers["content-type"].startswith("text/html")
    assert (await get(app, "/", accept="*/*")).json()["service"] == "Gatepost"


async def test_a_recording_wants_the_token(tmp_path: Path) -> None:
    app = make(tmp_path, access_token="a token for recordings")
    path = f"/api/executions/{new_id()}/recording"
    async with app.router.lifespan_context(app):
        assert (await get(app, path)).status_code == 401
        assert (await get(app, path, authorization="Bearer a token for recordings")).status_code == 404


def test_the_module_makes_its_application_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not (tmp_path / "data").exists()
    assert isinstance(backend.runtime.wiring.app, FastAPI)
    assert (tmp_path / "data/recordings").is_dir()
    with pytest.raises(AttributeError):
        backend.runtime.wiring.nothing  # noqa: B018


def test_the_data_folder_lies_in_none_that_programs_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, link = tmp_path / "data", tmp_path / "link"
    link.symlink_to(tmp_path)
    (tmp_path / "tool.py").touch()
    with pytest.raises(SettingsError, match=r"PYGUARD_COMMAND.*contains the data folder"):
        make(data, pyguard_command=f"python3 {link}/tool.py")
    monkeypatch.setattr("backend.runtime.local_executor.RUNNABLE", (str(link),))
    with pytest.raises(SettingsError, match="GATEPOST_DATA_DIR"):
        make(data)


async def test_a_broken_profile_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("extends = 'agent'\nname = 'mine'\nsummary = 3\n")
    with pytest.raises(ProfileError, match=r"mine\.toml: profile\.summary: expected a str"):
        make(tmp_path / "data", profiles=tmp_path)


def test_a_server_imports_and_builds_only_what_each_one_uses() -> None:
    """What only some servers use takes memory and a part of the start of all."""
    names = "alembic asyncpg cryptography.fernet dotenv jwt pwdlib redis smtplib tree_sitter"
    code = (
        "import sys, backend.runtime.wiring\n"
        "from backend.core.recording.messages import Message\n"
        "from backend.transports.dependencies import Answer\n"
        f"print(*sys.modules.keys() & {set(names.split())})\n"
        "print(*(each.__name__ for base in (Answer, Message) for each in base.__subclasses__() if each.__pydantic_complete__))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_probes_have_no_model_of_their_answers(tmp_path: Path) -> None:
    """FastAPI would import the first version of Pydantic for one, at the first probe of each server."""
    routes = {route.path: route for route in make(tmp_path).routes if isinstance(route, APIRoute)}
    probes = ("/", "/health", "/healthz", "/readyz", "/health/protection", "/metrics")
    assert [path for path in probes if routes[path].response_field] == []
