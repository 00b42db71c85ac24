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
    """A server that runs until it is stopped, and can be started again, empty."""

    program: str
    path: Path
    process: "subprocess.Popen[bytes] | None" = None
    options: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"redis+unix://{self.path}"

    def start(self) -> None:
        words = [
            self.program,
            "--port",
            "0",
            "--unixsocket",
            str(self.path),
            "--save",
            "",
            "--dir",
            str(self.path.parent),
            *self.options,
        ]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_until(self.answers, "Redis")

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.path))
                probe.sendall(b"PING\r\n")
                return probe.recv(16).startswith((b"+PONG", b"-NOAUTH"))
            except OSError:
                return False


@contextmanager
def running_redis(*options: str) -> Iterator[Redis]:
    """A server for a test, with further `options`. Its folder is short, because the path of a socket has at most 107 bytes."""
    program = shutil.which("redis-server")
    need(program, "redis-server")
    assert program
    with tempfile.TemporaryDirectory(prefix="gatepost-redis-") as folder:
        redis = Redis(program, Path(folder) / "redis.sock", options=options)
        try:
            redis.start()
            yield redis
        finally:
            redis.stop()
