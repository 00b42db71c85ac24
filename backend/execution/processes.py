"""The processes of a command: started in a session of their own, and gone when it ends, all of them.

The service is the reaper of its descendants (PR_SET_CHILD_SUBREAPER): a process whose parent has died becomes the
service's child, so none can hide by forking twice. It belongs to the command whose session it is in, or whose id
stands in its environment. One that shed both is claimed by the last command that runs, where the service starts nothing
but commands. Linux only.
"""

import asyncio
import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import suppress

PR_SET_CHILD_SUBREAPER = 36
MARK = "GATEPOST_EXECUTION_ID"
POLL = 0.005  # seconds between two looks at processes that are told to end
KILL_BOUND = 5.0  # seconds; a process that survives SIGKILL so long hangs in the kernel


class Processes:
    """The commands that run, by the id of their first process.

    `sole` says that this process starts nothing but commands, so that an orphan of unknown origin is one of theirs.
    """

    def __init__(self, *, sole: bool = False) -> None:
        self._live: dict[int, str] = {}
        self._sole = sole
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # The first thread has all children: it starts them, and orphans are given to it. The file stays open, so that
        # processes can be found, and ended, also when no descriptor is left.
        self._children = os.open(f"/proc/{os.getpid()}/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)

    def add(self, pid: int, execution: str) -> None:
        """A command was started; `pid` leads its session."""
        self._live[pid] = execution

    def remove(self, pid: int) -> None:
        """Its first process was waited for, and nothing of it is left."""
        self._live.pop(pid, None)

    def terminate(self, pid: int) -> None:
        """Ask a command to end: SIGTERM to its group and to what has left it."""
        _signal_group(pid, signal.SIGTERM)
        for member in self._outside_group(pid):
            _signal(member, signal.SIGTERM)

    def left(self, pid: int) -> list[int]:
        """Processes of a command whose parent has died; their own children are not listed."""
        children = map(int, os.pread(self._children, 65536, 0).split())
        return [child for child in children if child not in self._live and self._belongs(child, pid)]

    def _belongs(self, orphan: int, pid: int) -> bool:
        owner = self._owner(orphan)
        return owner == pid or (owner is None and self._sole and len(self._live) == 1)

    async def kill(self, pid: int) -> bool:
        """SIGKILL a command's whole tree until none is left but its first process, which the caller waits for.

        False when something of it is still there after KILL_BOUND.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + KILL_BOUND
        while loop.time() < end:
            members = [pid, *self._outside_group(pid)]
            _signal_group(pid, signal.SIGKILL)
            for member in members:
                _signal(member, signal.SIGKILL)
            _reap(self.left(pid))
            if not self.left(pid) and not list(_descendants(pid)):
                return True
            await asyncio.sleep(POLL)
        return False

    def _outside_group(self, pid: int) -> list[int]:
        roots = self.left(pid)
        return [*_descendants(pid), *roots, *(below for root in roots for below in _descendants(root))]

    def _owner(self, child: int) -> int | None:
        """The command that an orphan belongs to; None where nothing tells."""
        with suppress(ProcessLookupError):
            session = os.getsid(child)
            if session in self._live:
                return session
        mark = _mark(child)
        return next((pid for pid, execution in self._live.items() if execution == mark), None)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(map(int, file.read().split()))
    return found


def _descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _descendants(child)


def _mark(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return ""
    head = f"{MARK}=".encode()
    return next(
        (variable[len(head) :].decode("ascii", "replace") for variable in variables if variable.startswith(head)), ""
    )


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _reap(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
