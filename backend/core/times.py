"""Times: stored as Unix milliseconds, shown as ISO 8601 in UTC."""

from datetime import UTC, datetime

DAY_MS = 86_400_000
HOUR_MS = 3_600_000


def iso(unix_ms: int) -> str:
    """A time in milliseconds as ISO 8601 in UTC, with Z. Raises ValueError or OverflowError outside the years 1 to 9999."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
