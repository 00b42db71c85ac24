"""`python -m backend`, or another program, as a fork of a process that has imported it: imports take most of a start.

What a process is started with (its command line, its environment in /proc) is that of the preloaded one. A test that looks
at these starts the program itself.
"""

import atexit
import gc
import importlib
import json
import mimetypes
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import IO, Any, NoReturn, Protocol

from backend.cli.main import VERBS

ROOT = Path(__file__).parent.parent
REQUEST_LIMIT = 1 << 20  # bytes

# What is done in the process before it becomes the program: `prepare` of a module, with its arguments.
Before = tuple[str | int, ...]

LOADED = (
    "backend.bus.hosts",
    "backend.bus.host_streams",
    "backend.bus.redis",
    "backend.cli.main",
    *(f"backend.cli.{module}" for module in dict.fromkeys(VERBS.values())),
    "backend.runtime.wiring",
    "backend.storage.postgresql",
    "cryptography.fernet",
    "pydantic.v1",  # for FastAPI, which looks whether models are of that version
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite",
    "tree_sitter_bash",
    "uvicorn",
    "uvicorn.lifespan.off",
    "uvicorn.main",
    "uvicorn.protocols.http.h11_impl",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
)


class Process(Protocol):
    """What tests use of a process, as in `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


@dataclass(slots=True)
class Preloaded:
    """The preloaded process, asked over a socket."""

    process: "subprocess.Popen[bytes]"
    asked: socket.socket
    lock: Lock = field(default_factory=Lock)

    def ask(self, request: object, descriptors: Sequence[int] = ()) -> int:
        """One request and its answer."""
        with self.lock:
            socket.send_fds(self.asked, [json.dumps(request).encode()], descriptors)
            return int(self.asked.recv(64))

    def close(self) -> None:
        """End it; what it has started goes on."""
        self.asked.close()
        self.process.wait()


@dataclass(slots=True)
class Fork:
    """A process that the preloaded one has started."""

    preloaded: Preloaded
    pid: int
    returncode: int | None = None
    _handle: int = -1

    def __post_init__(self) -> None:
        self._handle = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("backend", timeout or 0)
        return code

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, sig)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._handle, select.POLLIN)
            if poll.poll(None if timeout is None else timeout * 1000):
                self.returncode = self.preloaded.ask(["reap", self.pid])
                os.close(self._handle)
        return self.returncode


@cache
def preloaded() -> Preloaded:
    """The preloaded process of this one. Raises nothing: what cannot be loaded is seen at the first start."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "tests.preloaded", str(its.fileno())]
    process = subprocess.Popen(words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, pass_fds=[its.fileno()])
    its.close()
    found = Preloaded(process, ours)
    atexit.register(found.close)
    return found


def start(
    words: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    files: tuple[IO[bytes], IO[bytes], IO[bytes]],
    *,
    program: str = "backend",
    before: Before = (),
) -> Fork:
    """Start `python -m PROGRAM WORDS` with these standard streams."""
    origin = preloaded()
    request = ["start", [program, *words], str(cwd), dict(env), before]
    return Fork(origin, origin.ask(request, [file.fileno() for file in files]))


def run(
    words: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    entered: str = "",
    before: Before = (),
    *,
    program: str = "backend",
) -> "subprocess.CompletedProcess[str]":
    """Run `python -m PROGRAM WORDS` to its end."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(entered.encode())
        given.seek(0)
        code = start(words, cwd, env, (given, out, err), program=program, before=before).wait(60)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(words), code, out.read().decode(), err.read().decode())


@dataclass(frozen=True, slots=True)
class Task:
    """What a forked process is to become."""

    words: list[str]
    cwd: str
    environment: dict[str, str]
    before: list[Any]
    descriptors: list[int]

    def run(self) -> None:
        """Become it. Ends as the program does."""
        for target, descriptor in enumerate(self.descriptors):
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.chdir(self.cwd)
        os.environ.clear()
        os.environ.update(self.environment)
        if self.before:
            module, *arguments = self.before
            importlib.import_module(module).prepare(*arguments)
        sys.argv[:] = self.words
        try:
            runpy.run_module(self.words[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            _exit(end.code)


def _exit(code: object) -> NoReturn:
    """End as Python does, but leave the memory as it is: to free what was preloaded means to copy it first."""
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream:
            stream.flush()
    os._exit(code if isinstance(code, int) else 0)


def _serve(asked: socket.socket) -> Task | None:
    """Answer requests; in a forked process, what it has to run."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(asked, REQUEST_LIMIT, 3)
        if not data:
            return None
        kind, *rest = json.loads(data)
        if kind == "reap":
            asked.send(str(os.waitstatus_to_exitcode(os.waitpid(rest[0], 0)[1])).encode())
            continue
        if not (pid := os.fork()):
            asked.close()
            words, cwd, environment, before = rest
            return Task(words, cwd, environment, before, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        asked.send(str(pid).encode())


def _main(descriptor: int) -> None:
    for name in LOADED:
        importlib.import_module(name)
    from backend.core.recording.redaction import DEFAULT_PATTERNS, Masks
    from backend.policies.loader import load_profile, shipped_names
    from tests.password_work import make_least

    Masks.of((), DEFAULT_PATTERNS)  # Python keeps what it has compiled of them
    for name in shipped_names():
        load_profile(name)
    mimetypes.init()  # reads files of the system
    make_least()
    gc.collect()
    gc.freeze()
    if task := _serve(socket.socket(fileno=descriptor)):
        task.run()


if __name__ == "__main__":
    _main(int(sys.argv[1]))
