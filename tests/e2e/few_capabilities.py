"""Before a server with what the documented container has of root."""

import ctypes
import os
import struct
from pathlib import Path

from backend.executors.local.run_as import CAPABILITIES

PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
VERSION = 0x20080522  # of the structure, with two words for each set


def prepare(*kept: str) -> None:
    """Give up the other capabilities for good, as `docker run --cap-drop ALL --cap-add ...` does."""
    libc = ctypes.CDLL(None, use_errno=True)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    bits = sum(1 << CAPABILITIES[name] for name in kept)
    header = ctypes.create_string_buffer(struct.pack("<Ii", VERSION, 0))
    sets = ctypes.create_string_buffer(struct.pack("<6I", bits, bits, 0, 0, 0, 0))
    dropped = [libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) for number in range(last + 1) if not bits >> number & 1]
    if any(dropped) or libc.capset(header, sets) or libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
