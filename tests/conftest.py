"""Fixtures: real servers for end-to-end tests, each ended with the test or module that asked for it."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.serving import ANY_PROGRAM, Server, clean_up, processes_of, start

StartServer = Callable[..., Server]


def end(server: Server) -> None:
    """Stop a server, and what it may have left."""
    if server.process.poll() is None:
        server.stop()
    clean_up([process for process in processes_of(server) if process.state != "Z"])


# Files that are run one after another by the same worker: they load the machine, or count what runs on it.
ALONE = (
    "tests/executors/local",
    "tests/e2e/test_cage.py",
    "tests/e2e/test_exhaustion.py",
    "tests/e2e/test_slow_viewer.py",
)


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Gives the tests of a file to one worker, since they share a server."""

    def _split_scope(self, nodeid: str) -> str:
        return "machine" if nodeid.startswith(ALONE) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """The distribution of the tests; that of pytest-xdist by groups has no effect with this version of pytest."""
    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def reachable(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let the user that commands run as pass through the folders of the tests, which pytest closes for others."""
    base = tmp_path_factory.getbasetemp()
    shared = Path(tempfile.gettempdir()).resolve()
    for folder in (base, *base.parents):
        if folder == shared or shared.is_relative_to(folder):
            break  # the folder of all temporary files is not ours
        folder.chmod(0o711)


@pytest.fixture(autouse=True)
def reachable_folder(request: pytest.FixtureRequest) -> None:
    """The same for the folder of a test."""
    if "tmp_path" in request.fixturenames:
        request.getfixturevalue("tmp_path").chmod(0o711)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which `pyguard WORDS` runs WORDS, without tight rates; shared by a module."""
    running = start(tmp_path_factory.mktemp("server"), ANY_PROGRAM)
    yield running
    end(running)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers with settings of their own: `start_server({"NAME": "value"})`. The data folder is the same each time."""
    started: list[Server] = []

    def begin(env: Mapping[str, str] | None = None, **options: Any) -> Server:
        started.append(running := start(tmp_path, {**ANY_PROGRAM, **(env or {})}, **options))
        return running

    yield begin
    for running in started:
        end(running)
