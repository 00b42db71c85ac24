"""`python without_landlock.py PROGRAM WORD ...`: become the program, on a kernel that seems to have no Landlock."""

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
FIRST, LAST = 444, 446  # the calls of Landlock, on every architecture
INSTRUCTIONS = [
    (0x20, 0, 0, 0),  # the number of the call
    (0x35, 0, 2, FIRST),
    (0x25, 1, 0, LAST),
    (0x06, 0, 0, 0x00050000 | errno.ENOSYS),
    (0x06, 0, 0, 0x7FFF0000),
]


def main() -> None:
    """Put the filter on, which everything that is started from here inherits."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *each) for each in INSTRUCTIONS))
    program = (ctypes.c_uint64 * 2)(len(INSTRUCTIONS), ctypes.addressof(code))
    for words in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0),
    ):
        if libc.prctl(*map(ctypes.c_ulong, words)):
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
