"""A clock that jumps deletes nothing, until it is right again or somebody says that it is."""

from pathlib import Path

import pytest
import structlog

from backend.core.times import DAY_MS
from backend.runtime.trusted_clock import TrustedClock, confirm, read_clock

NOW = 1_800_000_000_000


class Times:
    """A machine whose clock can be set."""

    def __init__(self, file: Path) -> None:
        self.file, self.now, self.passed, self.newest = file, NOW, 0.0, None

    newest: int | None

    def start(self) -> TrustedClock:
        async def newest() -> int | None:
            return self.newest

        return TrustedClock(self.file, newest, lambda: self.now, lambda: self.passed)

    def pass_by(self, ms: int) -> None:
        self.now += ms
        self.passed += ms / 1000


@pytest.fixture
def times(tmp_path: Path) -> Times:
    return Times(tmp_path / "clock")


async def test_time_that_passes_is_trusted_however_much_it_is(times: Times) -> None:
    clock = times.start()
    assert await clock.time() == NOW
    for days in (0.001, 1, 100):
        times.pass_by(int(days * DAY_MS))
        assert await clock.time() == times.now
    times.now += 6 * DAY_MS  # the machine was off
    assert await times.start().time() == times.now
    times.now -= 3 * DAY_MS  # deletes less
    assert await times.start().time() == times.now


async def test_a_clock_that_is_ahead_at_the_start_is_not_trusted_until_it_is_right(times: Times) -> None:
    assert await times.start().time() == NOW
    times.now += 460 * DAY_MS
    for _ in range(2):  # at the next start neither
        clock = times.start()
        with structlog.testing.capture_logs() as logs:
            assert [await clock.time() for _ in range(3)] == [None] * 3
        assert len(logs) == 1
        assert "audit confirm-clock" in logs[0]["hint"]
    times.now = NOW + DAY_MS
    assert await clock.time() == times.now


async def test_a_clock_that_jumps_while_the_server_runs_is_not_trusted(times: Times) -> None:
    clock = times.start()
    assert await clock.time() == NOW
    times.now += 2 * DAY_MS
    times.passed += 60
    assert await clock.time() is None
    confirm(times.file, times.now)
    assert await clock.time() == times.now


async def test_without_a_file_the_newest_attempt_tells_the_time(times: Times) -> None:
    times.newest = NOW - 460 * DAY_MS
    clock = times.start()
    assert await clock.time() is None
    times.newest = NOW  # attempts made meanwhile have the wrong time
    assert await times.start().time() is None
    confirm(times.file, NOW)
    assert await clock.time() == NOW


@pytest.mark.parametrize("content", [b"", b"tomorrow", b"-1", b"9" * 50, b"\xff"])
async def test_a_file_that_is_no_time_is_replaced_by_what_is_known(times: Times, content: bytes) -> None:
    times.file.write_bytes(content)
    times.newest = NOW - DAY_MS
    assert await times.start().time() == NOW
    assert read_clock(times.file) == NOW
