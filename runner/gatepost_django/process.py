"""A process of a command, under its supervisor."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

SUPERVISOR = Path(__file__).with_name("supervisor.py")


@dataclass
class Process:
    """A command that was started."""

    popen: "subprocess.Popen[bytes]"
    control: int
    status: int
    said: bytes = b""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Its standard output and error; none if the output is not read."""
        return tuple(stream.fileno() for stream in (self.popen.stdout, self.popen.stderr) if stream)

    def ask_to_end(self, *, kill: bool) -> None:
        """Ask all its processes to end, or kill them."""
        with self.lock, suppress(OSError):  # it has ended
            if self.control >= 0:
                os.write(self.control, b"K" if kill else b"T")

    def hear(self) -> bool:
        """Read what the supervisor reports; whether that was all."""
        data = os.read(self.status, 4096)
        self.said += data
        return not data

    @property
    def exit_code(self) -> int:
        """How the command ended, once all was heard; a negative one is a signal."""
        reported = dict(line.split() for line in self.said.decode().splitlines())
        if "exit" in reported:
            return int(reported["exit"])
        with suppress(OSError, KeyError):  # the supervisor was killed
            os.killpg(int(reported["pid"]), signal.SIGKILL)
        return -signal.SIGKILL

    def close(self) -> None:
        """Kill what is left, and close what is open."""
        with self.lock:
            os.close(self.control)
            self.control = -1
        os.close(self.status)
        for stream in (self.popen.stdout, self.popen.stderr):
            if stream:
                stream.close()
        self.popen.wait()


def start(words: Sequence[str], folder: Path, environment: Mapping[str, str], lock: int, *, read: bool) -> Process:
    """Start a command without standard input. Its supervisor has `lock` open. Raises OSError."""
    control, asked = os.pipe()
    status, reported = os.pipe()
    output = subprocess.PIPE if read else subprocess.DEVNULL
    try:
        popen = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SUPERVISOR), str(control), str(reported), str(lock), *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            bufsize=0,
            pass_fds=(control, reported, lock),
            start_new_session=True,
        )
    except OSError:
        os.close(asked)
        os.close(status)
        raise
    finally:
        os.close(control)
        os.close(reported)
    return Process(popen, asked, status)
