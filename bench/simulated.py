"""`python -m bench.simulated VERB ...`: Gatepost under valgrind, which is SLOWER than a processor, and so is the clock.

What the server does every second it then does as often for each command as without valgrind, and the interpreter's lock is
taken from a thread as seldom. Where valgrind does not know pidfd_open, there is a thread instead.
"""

import errno
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

SLOWER = 50


def slow_clock() -> None:
    """From here on, timers of the event loop and all that is measured in this process take so many times longer."""
    clock = time.monotonic
    begun = clock()
    time.monotonic = lambda: begun + (clock() - begun) / SLOWER
    for selector in (selectors.EpollSelector, selectors.PollSelector):
        selector.select = slowed(selector.select)  # type: ignore[method-assign]
    sys.setswitchinterval(SLOWER * sys.getswitchinterval())


def slowed(select: Callable[..., Any]) -> Callable[..., Any]:
    """A selector that waits longer."""
    return lambda self, timeout=None: select(self, timeout and timeout * SLOWER)


def watched(pid: int) -> int:
    """A descriptor that becomes readable when a child has ended."""
    read, write = os.pipe2(os.O_CLOEXEC)

    def wait() -> None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        os.close(write)

    threading.Thread(target=wait, daemon=True).start()
    return read


def has_pidfds() -> bool:
    """Whether pidfd_open can be called."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True


if __name__ == "__main__":
    slow_clock()
    if not has_pidfds():
        os.pidfd_open = lambda pid, flags=0: watched(pid)
    from backend.cli.main import main

    sys.exit(main())
