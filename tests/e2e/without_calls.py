"""Before a server on a kernel that seems not to have a kind of calls."""

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
# The first and the last call, with the same numbers on every architecture, and how they are refused.
KINDS = {
    "landlock": (444, 446, errno.ENOSYS),
    "mounts": (428, 433, errno.EPERM),  # as in a container, where nothing may be mounted
}


def instructions(first: int, last: int, error: int) -> list[tuple[int, int, int, int]]:
    """A filter that refuses these calls."""
    return [
        (0x20, 0, 0, 0),  # the number of the call
        (0x35, 0, 2, first),
        (0x25, 1, 0, last),
        (0x06, 0, 0, 0x00050000 | error),
        (0x06, 0, 0, 0x7FFF0000),
    ]


def prepare(kind: str) -> None:
    """Put the filter on, which everything that is started from here inherits."""
    wanted = instructions(*KINDS[kind])
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *each) for each in wanted))
    program = (ctypes.c_uint64 * 2)(len(wanted), ctypes.addressof(code))
    for words in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0),
    ):
        if libc.prctl(*map(ctypes.c_ulong, words)):
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
