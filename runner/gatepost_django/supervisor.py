"""Runs one command and leaves nothing of it behind. A program of its own: it is started by its path.

    supervisor.py CONTROL STATUS LOCK WORD ...

CONTROL is read: `T` asks all processes of the command to end, `K` kills them, and so does its end, when the runner is gone.
STATUS gets `pid N` and, when no process is left, `exit N`; a negative N is a signal. LOCK stays open until then.
On Linux also processes that have left their session are found: they become children of this one.
"""

import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
AGAIN = 0.05  # seconds between two looks for what is left


def main(words: list[str]) -> None:
    """Start the command and wait until nothing of it is left."""
    control, status, lock = map(int, words[:3])
    for fd in (control, status, lock):
        os.set_inheritable(fd, False)
    adopt_orphans()
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    child = start(words[3:])
    os.write(status, f"pid {child}\n".encode())
    silence()
    os.write(status, f"exit {follow(child, control, ended)}\n".encode())


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent ends."""
    if sys.platform == "linux":
        with suppress(ImportError, OSError):
            import ctypes

            ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def start(words: list[str]) -> int:
    """Start the command in a session of its own."""
    if child := os.fork():
        return child
    try:
        os.setsid()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execvp(words[0], words)
    except OSError as error:
        os.write(2, f"{words[0]} cannot be started: {error.strerror}\n".encode())
    os._exit(127)


def silence() -> None:
    """Leave the output to the command, so that it ends with the command."""
    none = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(none, fd)


def follow(child: int, control: int, ended: int) -> int:
    """Do what is asked for until no process is left; the exit code of the child."""
    code, killing = None, False
    while True:
        watched = [ended] if killing else [ended, control]
        ready, _, _ = select.select(watched, (), (), AGAIN if killing else None)
        if ended in ready:
            os.read(ended, 4096)
        if control in ready:
            asked = os.read(control, 64)
            killing = not asked or b"K" in asked
            if not killing:
                send(child, signal.SIGTERM)
        code, left = reap(child, code)
        if not left:
            if sys.platform != "linux":  # elsewhere orphans are not adopted
                send(child, signal.SIGKILL)
            return 0 if code is None else code
        if killing or code is not None:  # what the command has left in the background ends with it
            killing = True
            send(child, signal.SIGKILL)


def reap(child: int, code: "int | None") -> "tuple[int | None, bool]":
    """Wait for what has ended; the exit code of the child if it is known, and whether there are more processes."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code, False
        if pid == 0:
            return code, True
        if pid == child:
            code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def send(child: int, number: signal.Signals) -> None:
    """Send a signal to all processes of the command."""
    with suppress(OSError):
        os.killpg(child, number)
    for pid in descendants():
        with suppress(OSError):
            os.kill(pid, number)


def descendants() -> "list[int]":
    """What runs below this process; nothing where there is no /proc."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            parents[int(place.parent.name)] = int(place.read_text(errors="replace").rpartition(")")[2].split()[1])
    found: list[int] = []
    above = {os.getpid()}
    while above:
        above = {pid for pid, parent in parents.items() if parent in above}
        found += above
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
