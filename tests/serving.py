"""A real Gatepost server in a process of its own, and a look at the processes that it leaves."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests import preloaded
from tests.ports import free_port
from tests.preloaded import Before, Process

ROOT = Path(__file__).parent.parent
START_BOUND = 120.0  # seconds
STOP_BOUND = 10.0  # seconds; what a platform gives a process between SIGTERM and SIGKILL

PROGRAM = [sys.executable, "-m", "backend", "serve"]  # for tests that look at what a server was started with

# `pyguard WORDS` runs WORDS as they are, so that a test can run what the profile does not list.
ANY_PROGRAM = {
    "PYGUARD_COMMAND": "env",
    "PYGUARD_NETWORK": "none",
    "GATEPOST_COMMAND_RATE": "100000/minute",
    "GATEPOST_CHECK_RATE": "100000/minute",
    "GATEPOST_HTTP_RATE": "100000/minute",
    "GATEPOST_CONNECTIONS_PER_ADDRESS": "100",
}


def wait_until(condition: Callable[[], Any], what: str, bound: float = 30.0) -> Any:
    """The first true value of `condition`; fails after `bound` seconds. What is waited for gets most of the processor."""
    end = time.monotonic() + bound
    begun = time.thread_time()
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {bound:g} s in vain for {what}"
        time.sleep(max(0.02, 4 * (time.thread_time() - begun)))
        begun = time.thread_time()
    return value


def files_below(folder: Path, name: str) -> list[Path]:
    """The files of this name anywhere below a folder of a server that runs: what goes meanwhile is passed over.

    `Path.rglob` fails for a folder that goes between being listed and being read, such as the home of a command.
    """
    return [Path(place, name) for place, _, names in os.walk(folder) if name in names]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP request got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Server:
    """A server that runs, with its logs in `folder`."""

    process: Process
    folder: Path
    data_dir: Path
    port: int
    began: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/terminal"

    @property
    def workspace(self) -> Path:
        return self.data_dir / "workspace"

    @property
    def recordings(self) -> Path:
        return self.data_dir / "recordings"

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout.log").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr.log").read_text()

    @property
    def logs(self) -> str:
        """Everything it wrote, for failure messages and canaries."""
        return f"--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    def get(self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
        """Ask for `path` exactly as it is written."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def recording(self, execution: str) -> list[dict[str, Any]]:
        """The messages that are kept of an execution, read from its file."""
        text = (self.recordings / f"{execution}.ndjson").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def stop(self) -> int:
        """SIGTERM, and the exit code. Fails, and kills it, when it takes longer than a platform waits."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_BOUND)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not stop within {STOP_BOUND:g} s\n{self.logs}") from None

    def kill(self) -> None:
        """SIGKILL: what runs in it is on its own from here."""
        self.process.kill()
        self.process.wait()

    def resident(self) -> int:
        """Bytes of memory it holds."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


SERVE = ("backend", "serve")
UVICORN = ("uvicorn", "backend.server:app", "--port", "PORT")


def start(
    folder: Path,
    env: Mapping[str, str] | None = None,
    command: list[str] | None = None,
    cwd: Path | None = None,
    *,
    program: Sequence[str] = SERVE,
    before: Before = (),
) -> Server:
    """Start a server whose data lies in `folder`, and wait until it answers. It gets nothing of our environment.

    Without a `command` it is `python -m PROGRAM`, forked from a process that has imported everything and that has done
    what is `before` it (see tests/preloaded.py).
    """
    folder.chmod(0o711)  # commands run as another user where the tests are root
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "GATEPOST_DATA_DIR": str(folder / "data"),
        "PORT": str(port),
        **(env or {}),
    }
    words = [word.replace("PORT", str(port)) for word in command or program]
    place = cwd or folder  # not the repository: a developer's .env stays out
    with _streams(folder) as streams:
        process: Process
        if command:
            process = subprocess.Popen(
                words, cwd=place, env=environment, stdin=streams[0], stdout=streams[1], stderr=streams[2]
            )
        else:
            process = preloaded.start(words[1:], place, environment, streams, program=words[0], before=before)
    server = Server(process, folder, folder / "data", port)
    try:
        wait_until(lambda: _answers(server), "the server's /health", START_BOUND)
    except AssertionError as error:
        process.kill()
        process.wait()
        raise AssertionError(f"{error}\n{server.logs}") from None
    return server


@contextmanager
def _streams(logs: Path) -> Iterator[tuple[IO[bytes], IO[bytes], IO[bytes]]]:
    """The standard streams of a server, with its output in `logs`."""
    with (
        (logs / "stdout.log").open("ab") as out,
        (logs / "stderr.log").open("ab") as err,
        Path(os.devnull).open("rb") as none,
    ):
        yield none, out, err


def _answers(server: Server) -> bool:
    code = server.process.poll()
    assert code is None, f"the server ended with {code}"
    try:
        return server.get("/health").status == 200
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Seen:
    """A process as /proc shows it. `state` Z is one that ended and that nobody has waited for."""

    pid: int
    parent: int
    state: str
    command: str
    environment: str


KERNEL_THREAD = 0x0020_0000  # PF_KTHREAD; such threads are of no interest


def _process(pid: int) -> Seen | None:
    place = Path(f"/proc/{pid}")
    try:
        name, _, rest = (place / "stat").read_text().partition("(")[2].rpartition(")")
        state, parent, *_, flags = rest.split()[:7]
        if int(flags) & KERNEL_THREAD:
            return None
        command = (place / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
        environment = (place / "environ").read_bytes().decode(errors="replace")
    except (OSError, ValueError):
        return None
    return Seen(pid, int(parent), state, command or name, environment)


def all_processes() -> dict[int, Seen]:
    """Every process of this machine that can be seen."""
    found = (_process(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return {process.pid: process for process in found if process}


def processes_of(server: Server, mark: str = "") -> list[Seen]:
    """What runs for a server: its descendants, zombies too, and whatever has its workspace or `mark` on it.

    Not what stays for the next command: the server of its cage, and the first processes of its rooms, which are `rooms_of` it.
    """
    return [process for process in _all_of(server, mark) if not _keeps_room(process) and not _serves(process)]


def rooms_of(server: Server) -> list[Seen]:
    """The first processes of the rooms of a server."""
    return [process for process in _all_of(server, "") if _keeps_room(process)]


def _keeps_room(process: Seen) -> bool:
    return " --room " in process.command


def _serves(process: Seen) -> bool:
    """The server of the cage; the supervisors that it creates have another command line."""
    return " --serve " in process.command


def _all_of(server: Server, mark: str) -> list[Seen]:
    everything = all_processes()

    def belongs(process: Seen) -> bool:
        if process.pid == server.pid or process.pid == os.getpid():
            return False
        if process.state != "Z" and str(server.workspace) in process.environment:
            return True
        if mark and process.state != "Z" and mark in process.command:
            return True
        above = process
        while above.parent in everything:
            if above.parent == server.pid:
                return True
            above = everything[above.parent]
        return False

    return [process for process in everything.values() if belongs(process)]


def clean_up(processes: list[Seen]) -> None:
    """End what a test left on purpose, each by its pid."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
