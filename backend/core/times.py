"""Times: stored as Unix milliseconds, shown as ISO 8601 in UTC."""

from datetime import UTC, datetime
from functools import lru_cache

DAY_MS = 86_400_000
HOUR_MS = 3_600_000


def iso(unix_ms: int) -> str:
    """A time in milliseconds as ISO 8601 in UTC, with Z. Raises ValueError or OverflowError outside the years 1 to 9999."""
    second, millisecond = divmod(unix_ms, 1000)
    return f"{_second(second)}.{millisecond:03d}Z"


@lru_cache(maxsize=64)  # most times are of now, several in each second
def _second(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat()[:19]
