"""`serve --workers N`: several servers of one data folder behind one port; the first process starts and ends them.

They are forks of a process that has imported everything, so they share that memory. A stop signal ends them all in order;
one that dies is started again; when the first process is killed, they end too.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import field
from functools import partial

from backend.cli.failures import said
from backend.core.dataclasses import dataclass

STOPS = (signal.SIGTERM, signal.SIGINT)
WATCHED = {*STOPS, signal.SIGCHLD}
START_AGAIN = 1.0  # seconds after a start before the same worker is started again

# What a worker does: its number, and what it calls once it listens. Returns its exit code.
Work = Callable[[int, Callable[[], None]], int]


@dataclass(slots=True)
class Workers:
    """The workers of a server, by their numbers; 0 is started first, and says whether the others can."""

    count: int
    work: Work
    pids: dict[int, int] = field(default_factory=dict)
    begun: dict[int, float] = field(default_factory=dict)
    lifeline: tuple[int, int] = field(default_factory=os.pipe)

    def run(self) -> int:
        """Have them work until a stop signal; returns the exit code."""
        with _held_back():
            if not self._start_first():
                return 1
            for number in range(1, self.count):
                self._start(number)
            while (received := signal.sigwait(WATCHED)) not in STOPS:
                for number in self._ended():
                    self._restart(number)
            self._stop(received)
        return 0

    def _start_first(self) -> bool:
        """Whether the first one listens; where it cannot, it has said why."""
        reader, writer = os.pipe()
        self._start(0, writer)
        os.close(writer)
        listens = bool(os.read(reader, 1))
        os.close(reader)
        if not listens:
            os.waitpid(self.pids[0], 0)
        return listens

    def _start(self, number: int, ready: int = -1) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.begun[number] = time.monotonic()
        pid = os.fork()
        if pid == 0:
            self._be(number, ready)
        self.pids[number] = pid

    def _be(self, number: int, ready: int) -> None:
        """The life of a worker, in a process group of its own: Ctrl-C is for the first process, which passes it on."""
        code = 1
        try:
            os.setpgid(0, 0)
            os.close(self.lifeline[1])
            threading.Thread(target=_end_with, args=[self.lifeline[0]], daemon=True).start()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
            code = said(partial(self.work, number, partial(_say, ready)))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _ended(self) -> list[int]:
        """The numbers of workers that have ended."""
        return [number for number, pid in self.pids.items() if os.waitpid(pid, os.WNOHANG)[0]]

    def _restart(self, number: int) -> None:
        print(f"gatepost: worker {number} has ended and is started again", file=sys.stderr)
        time.sleep(max(0.0, self.begun[number] + START_AGAIN - time.monotonic()))
        self._start(number)

    def _stop(self, received: int) -> None:
        """End them; a second signal is passed on as well."""
        left = dict(self.pids)
        while True:
            for pid in left.values():
                os.kill(pid, received)
            while (again := signal.sigwait(WATCHED)) not in STOPS:
                left = {number: pid for number, pid in left.items() if not os.waitpid(pid, os.WNOHANG)[0]}
                if not left:
                    return
            received = again


@contextmanager
def _held_back() -> Iterator[None]:
    """Signals wait until they are asked for."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)


def _say(ready: int) -> None:
    if ready >= 0:
        os.write(ready, b"1")
        os.close(ready)


def _end_with(lifeline: int) -> None:
    """Stop in order once the first process has ended, which holds the other end."""
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGTERM)
