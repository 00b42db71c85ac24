"""What `python -m bench` measures of clients that share a server: a command next to a stream, many viewers of one command."""

import http.client
import json
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from bench.servers import GENEROUS, Running, gatepost_server
from bench.sockets import BOUND, BUFFER, Client, completed, gatepost

VIEWERS = 200
LINES = 200_000
WARM = 1.0  # seconds of a stream before its speed is measured


@dataclass(slots=True)
class Flood:
    """A client that reads a stream as fast as it comes, in a thread of its own."""

    client: Client
    size: int = 0
    over: bool = False
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        buffer = bytearray(BUFFER)
        while not self.over:
            self.size += self.client.socket.recv_into(buffer)

    def speed(self, seconds: float) -> float:
        """Bytes a second from now on."""
        before = self.size
        time.sleep(seconds)
        return (self.size - before) / seconds

    def stop(self) -> None:
        self.over = True
        self.thread.join()
        self.client.close()


@dataclass(frozen=True, slots=True)
class Shared:
    """What `VIEWERS` clients of one command cost: microseconds of the server a line and viewer, and how much it grew."""

    microseconds: float
    grown: int
    alone: float


@contextmanager
def flood(server: Running) -> Iterator[Flood]:
    """A stream of `yes`."""
    client = gatepost(server.port)
    client.send({"command": "pyguard"})
    reading = Flood(client)
    time.sleep(WARM)
    try:
        yield reading
    finally:
        reading.stop()


def shared_command() -> Shared:
    """Follow one command with one client, then with many; all read in this process."""
    with tempfile.TemporaryDirectory() as folder:
        password = Path(folder) / "password"
        password.write_text(secrets.token_hex())
        settings = GENEROUS | {"GATEPOST_ADMIN_PASSWORD_FILE": str(password)}
        with gatepost_server("true", settings) as server:
            token = _log_in(server, password.read_text())
            _followed(server, token, 1)
            alone = _followed(server, token, 1)
            before = server.memory()
            reached = [before]
            done = threading.Event()
            watching = threading.Thread(target=_watch, args=(server, reached, done))
            watching.start()
            spent = _followed(server, token, VIEWERS)
            done.set()
            watching.join()
    each = (spent - alone) / (VIEWERS - 1) / LINES
    return Shared(each * 1e6, max(reached) - before, alone / LINES * 1e6)


def _watch(server: Running, reached: list[int], done: threading.Event) -> None:
    while not done.wait(0.02):
        reached.append(server.memory())


def _followed(server: Running, token: str, viewers: int) -> float:
    """Processor seconds of the server while a command runs that so many clients follow to its end."""
    more = f"Authorization: Bearer {token}\r\n"
    first, *others = (gatepost(server.port, more) for _ in range(viewers))
    begun = _spent(server)
    first.send({"command": f"awk 'BEGIN {{ for (i = 1; i <= {LINES}; i++) print i }}'"})
    started = first.until(b'"type":"started"')
    execution = started.split(b'"execution":"')[1][:26].decode()
    for each in others:
        each.send({"type": "attach", "execution": execution})
    threads = [threading.Thread(target=lambda each=each: each.drain(completed, keep=False)) for each in others]
    for thread in threads:
        thread.start()
    first.drain(completed, keep=False)
    for thread in threads:
        thread.join()
    spent = _spent(server) - begun
    for client in (first, *others):
        client.close()
    return spent


def _spent(server: Running) -> float:
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _log_in(server: Running, password: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=BOUND)
    form = urlencode({"username": "admin", "password": password})
    connection.request("POST", "/api/auth/token", form, {"Content-Type": "application/x-www-form-urlencoded"})
    return str(json.load(connection.getresponse())["access_token"])
