"""Times as they are stored and shown."""

from datetime import UTC, datetime, timedelta

import pytest

from backend.core.times import DAY_MS, iso


@pytest.mark.parametrize(
    ("unix_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (DAY_MS, "1970-01-02T00:00:00.000Z"),
        (1_767_323_045_678, "2026-01-02T03:04:05.678Z"),
    ],
)
def test_a_time_is_iso_8601_in_utc_with_z(unix_ms: int, text: str) -> None:
    assert iso(unix_ms) == text


def test_no_millisecond_is_lost_or_made() -> None:
    for unix_ms in range(1_767_323_045_000, 1_767_323_047_000):
        assert (datetime.fromisoformat(iso(unix_ms)) - datetime.fromtimestamp(0, UTC)) / timedelta(
            milliseconds=1
        ) == unix_ms
