"""The clock of the machine and its randomness, which are passed to the other parts as functions."""

import os
import time

from backend.core.ids import ulid
from backend.core.times import iso


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """A new ULID."""
    return ulid(now_ms(), os.urandom(16))


def utc_now() -> str:
    """The time as ISO 8601 in UTC, milliseconds, with Z."""
    return iso(now_ms())


def since_boot() -> float:
    """Seconds since the machine started, also those in which it was suspended: `time.monotonic` leaves them out."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
