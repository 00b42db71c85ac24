"""The server of the cage: a process that creates the supervisor of each command, since starting a program for each takes longer.

It is a server of this process alone: it has one end of a pair of sockets, and ends when the other one is closed. The supervisors are
children of this process, not of the server, so that its end does not touch what runs. The next command then gets a new one.
"""

import os
import signal
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import field
from functools import cache
from pathlib import Path
from threading import Lock

from backend.core.dataclasses import dataclass
from backend.executors.local.cage_call import Descriptors, above_stdio, spawn

AT_ONCE = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
FIRST_OF_SPEC = 7  # number of the first descriptor that a spec refers to, in the supervisor


def numbered(descriptors: Iterable[int]) -> dict[int, int]:
    """What each descriptor is numbered in a supervisor that is given them in this order."""
    return {descriptor: FIRST_OF_SPEC + place for place, descriptor in enumerate(dict.fromkeys(descriptors))}


@dataclass(frozen=True, slots=True)
class _Process:
    """A server that was started."""

    pid: int
    asked: socket.socket

    def ask(self, descriptors: Sequence[int]) -> None:
        """One request. Raises OSError."""
        socket.send_fds(self.asked, [b"x"], descriptors, AT_ONCE)

    def close(self) -> None:
        """End it. Waits for that."""
        self.asked.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


@dataclass(slots=True, eq=False)
class CageServer:
    """Starts supervisors. It is begun with the first one."""

    cage: Path
    _process: _Process | None = None
    _asking: Lock = field(default_factory=Lock)

    @property
    def pid(self) -> int:
        """Of the process; 0 where there is none."""
        return self._process.pid if self._process else 0

    def start(self, descriptors: Sequence[int]) -> None:
        """Ask for a supervisor with these descriptors: status, life, control, spec, and those that the spec refers to.

        Does not wait for it. OSError where it cannot be asked for; what fails later is reported through them.
        """
        with self._asking:
            process = self._process or self._begin()
            try:
                process.ask(descriptors)
            except ConnectionError:  # it has ended, so the request was not received
                self._end()
                self._begin().ask(descriptors)

    def close(self) -> None:
        """End the server. What it has started goes on."""
        with self._asking:
            self._end()

    def _begin(self) -> _Process:
        asked, asking = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as ours, asking, Descriptors() as theirs:
            ours.callback(asked.close)
            end = above_stdio(asking.fileno(), theirs)
            process = _Process(spawn(self.cage, ["--serve", str(end), str(os.getpid())], {end}), asked)
            ours.pop_all()
        self._process = process
        return process

    def _end(self) -> None:
        if self._process:
            self._process.close()
        self._process = None


def find_server(cage: Path) -> CageServer:
    """The one of this process. A fork of it gets another, and so does the process itself if it changes its user."""
    return _server(str(cage), os.getpid(), os.geteuid())


@cache
def _server(cage: str, process: int, user: int) -> CageServer:
    return CageServer(Path(cage))
