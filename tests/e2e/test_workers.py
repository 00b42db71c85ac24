"""`serve --workers N`: several processes behind one port are one service."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.accounts import begin, client, gatepost, new_token
from tests.redis_server import running_redis
from tests.serving import ANY_PROGRAM, Server, all_processes, processes_of, start, wait_until

TWO = ("backend", "serve", "--workers", "2")
BOUND = 60.0  # seconds


def workers_of(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def ancestors(server: Server, command: str) -> set[int]:
    """The processes that have started what runs a command."""
    parents = {pid: process.parent for pid, process in all_processes().items()}
    found = set[int]()
    for process in processes_of(server):
        pid = process.pid if command in process.command else 0
        while pid := parents.get(pid, 0):
            found.add(pid)
    return found


def lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@contextmanager
def two_workers(folder: Path) -> Iterator[Server]:
    with ExitStack() as ending:
        redis = ending.enter_context(running_redis())
        server = start(folder, {**ANY_PROGRAM, "REDIS_URL": redis.url}, program=TWO)
        ending.callback(server.process.wait)
        ending.callback(server.process.kill)
        wait_until(lambda: len(workers_of(server.pid)) == 2, "two workers", BOUND)
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with two_workers(tmp_path_factory.mktemp("workers")) as running:
        yield running


async def connected(server: Server, token: str, other: int, ending: AsyncExitStack) -> httpx.AsyncClient:
    """A client whose connection one worker has accepted, because the `other` could not."""
    os.kill(other, signal.SIGSTOP)
    api = await ending.enter_async_context(client(server, token))
    try:
        assert (await api.get("/api/auth/me")).status_code == 200
    finally:
        os.kill(other, signal.SIGCONT)
    return api


async def test_each_worker_reaches_what_the_other_runs(server: Server) -> None:
    token = new_token(server.folder, "ann")
    first, second = sorted(workers_of(server.pid))
    async with AsyncExitStack() as ending:
        mine, theirs = [await connected(server, token, other, ending) for other in (first, second)]
        id = await begin(mine, "echo begun; sleep 7201")
        wait_until(lambda: second in ancestors(server, "sleep 7201"), "the command of the second worker", BOUND)
        assert (await theirs.get(f"/api/executions/{id}")).json()["status"] == "running"
        assert (await theirs.post(f"/api/executions/{id}/cancel")).json()["status"] == "cancelling"
        wait_until(lambda: not ancestors(server, "sleep 7201"), "the end of the command", BOUND)
        output = await theirs.get(f"/api/executions/{id}/output")
        assert "begun" in output.text
    assert server.stderr.count("is ready") == 1


def test_one_that_dies_is_started_again(server: Server) -> None:
    before = workers_of(server.pid)
    gone = max(before)
    os.kill(gone, signal.SIGKILL)
    wait_until(lambda: len(now := workers_of(server.pid)) == 2 and gone not in now, "another worker", BOUND)
    wait_until(lambda: "has ended and is started again" in server.stderr, "the line about it", BOUND)
    assert server.get("/health").status == 200


def test_they_end_with_the_first_process(server: Server) -> None:
    workers = workers_of(server.pid)
    server.kill()
    wait_until(lambda: not any(map(lives, workers)), "the end of the workers", BOUND)


def test_a_stop_ends_all_in_order(tmp_path: Path) -> None:
    with two_workers(tmp_path) as server:
        workers = workers_of(server.pid)
        assert server.stop() == 0
        assert not any(map(lives, workers))


@pytest.mark.parametrize(("count", "env"), [("2", {}), ("0", {}), ("99", {"REDIS_URL": "redis://127.0.0.1:1"})])
def test_several_need_redis(tmp_path: Path, count: str, env: dict[str, str]) -> None:
    done = gatepost(tmp_path, "serve", "--workers", count, env=env, code=2)
    assert done.stderr.startswith("gatepost: --workers: from 1 to 64;")
    assert "REDIS_URL" in done.stderr


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        env = {"REDIS_URL": "redis://127.0.0.1:1"}
        done = gatepost(tmp_path, "serve", "--workers", "2", "--port", port, env=env, code=1)
    assert f"cannot listen on 127.0.0.1:{port}. Try another port" in done.stderr


def test_what_keeps_them_from_starting_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")
    done = gatepost(tmp_path, "serve", "--workers", "2", env={"REDIS_URL": "redis://127.0.0.1:1", "PORT": "0"}, code=1)
    assert done.stderr.count("Not a directory") == 1
