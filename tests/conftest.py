"""Fixtures: real servers for end-to-end tests, each ended with the test or module that asked for it."""

import compileall
import gc
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from _pytest.assertion import rewrite
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests import password_work
from tests.serving import ANY_PROGRAM, Server, clean_up, processes_of, start

StartServer = Callable[..., Server]

hypothesis.settings.register_profile("untimed", deadline=None)  # how long an example takes depends on what else runs
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).parent.parent

password_work.make_least()  # before anything is imported that hashes one
gc.disable()  # until everything is collected, none of which can go


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


# Tests that take long, and whose promise a shorter one holds too: they run with `--long`.
LONG = (
    "tests/api/test_description.py::test_whatever_is_asked_is_answered_as_described",
    "tests/core/recording/test_transcript.py::test_it_is_the_whole_while_it_grows",
    "tests/core/recording/test_transcript.py::test_what_is_filtered_on_its_way_is_cut_the_same_each_time",
    "tests/e2e/test_apart.py",
    "tests/e2e/test_cage.py::test_200_kills_several_at_once_leave_no_process[L3]",
    "tests/e2e/test_exhaustion.py::test_a_command_leaves_the_service_descriptors_to_watch",
    "tests/e2e/test_outage.py::test_an_outage_costs_clear_errors_and_nothing_else[postgresql-killed]",
    "tests/e2e/test_outage.py::test_an_outage_costs_clear_errors_and_nothing_else[redis-killed]",
    "tests/e2e/test_resume.py::test_200000_lines_survive_a_dozen_cuts",
    "tests/executors/local/test_cage_binary.py::test_a_build_gives_what_is_shipped_and_a_change_is_found",
    "tests/executors/local/test_recipes.py::test_the_tricks_work_without_the_cage",
    "tests/runner/test_with_server.py::test_a_server_that_is_away_for_a_minute_costs_no_line",
    "tests/runner/test_with_server.py::test_two_runners_run_each_execution_once[200]",
    "tests/test_docs.py::test_the_audit_of_the_page_can_be_pasted_as_it_is",
    "tests/transports/test_pages.py::TestFuzz::test_nothing_in_the_description_can_be_made_to_break",
    "tests/test_run_py.py::test_what_pip_says_is_shown_when_it_fails",
)


PACKAGES = ("tests/packages/",)  # run with `--packages`


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests that take long too")
    parser.addoption("--packages", action="store_true", help="run the tests that install packages from registries too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _skip_without(config, items, "--long", LONG, "takes long")
    _skip_without(config, items, "--packages", PACKAGES, "installs packages from registries")


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was collected stays to the end: the collector need not look through it again each time."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Compile each file once, not in each worker: that takes longer than everything else before the first test."""
    gc.enable()  # nothing is collected here
    files = [file for folder in ("backend", "runner", "tests") for file in (ROOT / folder).rglob("*.py")]
    several = [files[at :: os.cpu_count()] for at in range(os.cpu_count() or 1)]
    fork = multiprocessing.get_context("fork")
    compilers = [fork.Process(target=_compile, args=(config, some)) for some in several]
    for compiler in compilers:
        compiler.start()
    for compiler in compilers:
        compiler.join()


def _compile(config: pytest.Config, files: list[Path]) -> None:
    """Leave the bytecode where pytest and Python look for it. A folder that cannot be written to stays as it is."""
    for file in files:
        if not file.match("test_*.py") and file.name != "conftest.py":
            compileall.compile_file(file, quiet=2)
            continue
        place = rewrite.get_cache_dir(file)
        kept = place / (file.stem + rewrite.PYC_TAIL)
        if rewrite._read_pyc(file, kept) is None and rewrite.try_makedirs(place):
            digest, code = rewrite._rewrite_test(file, config)
            rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, digest, kept)


def _skip_without(
    config: pytest.Config, items: list[pytest.Item], option: str, places: tuple[str, ...], why: str
) -> None:
    if not config.getoption(option):
        for item in items:
            if item.nodeid.startswith(places):
                item.add_marker(pytest.mark.skip(reason=f"{why}: run with {option}"))


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
    _open_above(tmp_path_factory.getbasetemp() / "any")


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """The same for the folder of a test. Those above it are closed again by each pytest that another one starts."""
    tmp_path.chmod(0o711)
    _open_above(tmp_path)
    return tmp_path


def _open_above(place: Path) -> None:
    shared = Path(tempfile.gettempdir()).resolve()
    for folder in place.parents:
        if folder == shared or shared.is_relative_to(folder):
            break  # the folder of all temporary files is not ours
        folder.chmod(0o711)


@pytest.fixture(scope="module")
def shipped_password_work() -> Iterator[None]:
    """Passwords are hashed with the work that is shipped."""
    password_work.make_shipped()
    yield
    password_work.make_least()


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
