"""One command that runs: what it prints goes to the output, and it ends by itself, in time or when it is asked to."""

import os
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gatepost_django.output import Output
from gatepost_django.process import Process
from gatepost_django.protocol import End

GRACE = 10.0  # seconds between the request to end and the kill
LINGER = 1.0  # seconds in which output is read after the last process has ended
READ = 64 * 1024  # bytes
FULL_PAUSE = 0.1  # seconds between two looks whether there is room for output again


@dataclass
class Run:
    """A command that was started. `timeout` is in seconds; `is_full` says whether its output has to wait."""

    process: Process
    output: Output
    timeout: float | None
    is_full: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    reason: str | None = None
    asked: float | None = None
    killed: bool = False
    ended: bool = False
    full: bool = False
    quiet: float | None = None  # since when there is nothing to read
    open: dict[int, bool] = field(default_factory=dict)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def stop(self, reason: str, *, kill: bool = False) -> None:
        """Ask the command to end, or kill it; may be called from other threads, and again."""
        self.reason = self.reason or reason
        self.asked = self.asked or self.clock()
        self.killed = self.killed or kill
        self.process.ask_to_end(kill=kill)

    def follow(self) -> End:
        """Read until it has ended, and nothing is left of it. Raises OSError when its output cannot be stored."""
        begun = self.clock()
        try:
            self._open()
            while not self._is_over():
                self._read(self._pause(begun))
                self._stop_in_time(begun)
        finally:
            self.process.close()
            self.selector.close()
        for is_stderr in (False, True):
            self.output.feed(is_stderr, b"", final=True)
        self.output.flush()
        return self._end()

    def _open(self) -> None:
        self.selector.register(self.process.status, selectors.EVENT_READ)
        for fd, is_stderr in zip(self.process.outputs, (False, True), strict=False):
            self.open[fd] = is_stderr

    def _is_over(self) -> bool:
        lingered = self.quiet is not None and self.clock() >= self.quiet + LINGER
        return self.ended and (not self.open or lingered)

    def _pause(self, begun: float) -> float:
        """Seconds until something is to be done, if nothing happens before."""
        now = self.clock()
        waits = [self.output.due, 1.0]
        if self.timeout is not None and self.asked is None:
            waits.append(begun + self.timeout - now)
        if self.asked is not None and not self.killed:
            waits.append(self.asked + GRACE - now)
        self._listen()
        if self.full:
            waits.append(FULL_PAUSE)
        return max(min(waits), 0.0)

    def _listen(self) -> None:
        """Read the output, unless it has to wait."""
        self.full = self.is_full()
        registered = self.selector.get_map()
        for fd in self.open:
            if self.full and fd in registered:
                self.selector.unregister(fd)
            elif not self.full and fd not in registered:
                self.selector.register(fd, selectors.EVENT_READ)

    def _read(self, seconds: float) -> None:
        ready = self.selector.select(seconds)
        if ready or self.full:
            self.quiet = None
        elif self.quiet is None:
            self.quiet = self.clock()
        for key, _ in ready:
            self._read_one(key.fd)
        if self.output.due <= 0:
            self.output.flush()

    def _read_one(self, fd: int) -> None:
        if fd == self.process.status:
            if self.process.hear():
                self.selector.unregister(fd)
                self.ended = True
        elif data := os.read(fd, READ):
            self.output.feed(self.open[fd], data)
        else:
            self.selector.unregister(fd)
            del self.open[fd]

    def _stop_in_time(self, begun: float) -> None:
        now = self.clock()
        if self.timeout is not None and self.asked is None and now >= begun + self.timeout:
            self.stop("timed_out")
        if self.asked is not None and not self.killed and now >= self.asked + GRACE:
            self.stop("", kill=True)

    def _end(self) -> End:
        code = self.process.exit_code
        if self.reason == "timed_out":
            return End(-1, "timed_out")
        if self.reason:
            return End(code, "cancelled")
        return End(code, "success" if code == 0 else "failed")
