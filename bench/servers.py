"""Gatepost and its peers, started on free ports and ended by pid."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_BOUND = 60.0  # seconds
GENEROUS = {
    "GATEPOST_COMMAND_RATE": "1000000/minute",
    "GATEPOST_API_RATE": "1000000/minute",
    "GATEPOST_HTTP_RATE": "1000000/minute",
    "GATEPOST_OUTPUT_LIMIT": str(1 << 40),
    "GATEPOST_CONCURRENT_PER_PRINCIPAL": "64",
    "GATEPOST_CONCURRENT_TOTAL": "256",
    "GATEPOST_CONNECTIONS_PER_ADDRESS": "5000",
    "GATEPOST_CONNECTIONS_TOTAL": "5000",
    "GATEPOST_DETACH_GRACE": "1",
}


@dataclass(frozen=True, slots=True)
class Running:
    """A server that listens."""

    port: int
    pid: int
    data: Path

    @property
    def workspace(self) -> Path:
        """Where the commands run."""
        return self.data / "workspace"

    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def gatepost_server(
    program: str,
    settings: Mapping[str, str] = GENEROUS,
    words: Sequence[str] = (sys.executable, "-m", "backend"),
    bound: float = START_BOUND,
    options: Sequence[str] = (),
) -> Iterator[Running]:
    """Gatepost, started by `words`, on which `pyguard WORDS` runs `program WORDS`. It has `bound` seconds to start."""
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="gatepost-bench-"))
    folder.chmod(0o711)  # for the user that commands run as
    environment = {"PATH": os.environ["PATH"], "PYGUARD_COMMAND": program, **settings}
    try:
        with _running(
            [*words, "serve", "--port", str(port), "--data-dir", str(folder), *options], environment, port, bound
        ) as pid:
            yield Running(port, pid, folder)
    finally:
        shutil.rmtree(folder)


@contextmanager
def websocketd_server(*words: str) -> Iterator[Running]:
    """websocketd, which runs `words` at every connection."""
    port = free_port()
    command = ["websocketd", f"--port={port}", "--address=127.0.0.1", "--loglevel=fatal", *words]
    with _running(command, dict(os.environ), port) as pid:
        yield Running(port, pid, Path())


@contextmanager
def obvious_server(*words: str) -> Iterator[Running]:
    """`bench.obvious_peer`, which runs `words` at every message."""
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="gatepost-bench-"))
    environment = {**os.environ, "PEER_COMMAND": json.dumps(words), "PEER_FOLDER": str(folder)}
    command = [sys.executable, "-m", "uvicorn", "bench.obvious_peer:app", "--loop", "asyncio", "--log-level", "error"]
    try:
        with _running([*command, "--port", str(port)], environment, port) as pid:
            yield Running(port, pid, folder)
    finally:
        shutil.rmtree(folder)


@contextmanager
def _running(words: list[str], environment: Mapping[str, str], port: int, bound: float = START_BOUND) -> Iterator[int]:
    process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await_port(port, bound)
        yield process.pid
    finally:
        process.terminate()
        process.wait(bound)


def await_port(port: int, bound: float = START_BOUND) -> None:
    """Wait until something listens."""
    end = time.monotonic() + bound
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def free_port() -> int:
    """A port that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
