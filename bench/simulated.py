"""`python -m bench.simulated VERB ...`: Gatepost where valgrind does not know pidfd_open, with a thread instead."""

import errno
import os
import sys
import threading

from backend.cli.main import main


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
    if not has_pidfds():
        os.pidfd_open = lambda pid, flags=0: watched(pid)
    sys.exit(main())
