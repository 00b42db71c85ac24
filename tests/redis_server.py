"""A Redis of a test's own, on a Unix socket."""

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.needs import need
from tests.serving import wait_until


@dataclass
class Redis:
    """A server that runs until it is stopped."""

    process: "subprocess.Popen[bytes]"
    path: Path

    @property
    def url(self) -> str:
        return f"redis+unix://{self.path}"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.path))
                probe.sendall(b"PING\r\n")
                return probe.recv(16) == b"+PONG\r\n"
            except OSError:
                return False


@contextmanager
def running_redis() -> Iterator[Redis]:
    """A server for a test. Its folder is short, because the path of a socket has at most 107 bytes."""
    program = shutil.which("redis-server")
    need(program, "redis-server")
    assert program
    with tempfile.TemporaryDirectory(prefix="gatepost-redis-") as folder:
        path = Path(folder) / "redis.sock"
        words = [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        redis = Redis(process, path)
        try:
            wait_until(redis.answers, "Redis")
            yield redis
        finally:
            redis.stop()
