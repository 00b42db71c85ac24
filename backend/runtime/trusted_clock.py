"""The clock by which old data is deleted. Not one that has jumped: it would delete what is not old."""

from collections.abc import Awaitable, Callable
from dataclasses import field
from pathlib import Path

import structlog

from backend.core.dataclasses import dataclass
from backend.core.times import DAY_MS, iso
from backend.runtime.command_line import verb
from backend.storage.atomic_files import replace_file

CLOCK_FILE = "clock"
AWAY_MS = 7 * DAY_MS  # how long the servers of a data folder may have been stopped before the time is doubted
STORED_MS = 3_600_000  # how old the stored time becomes
DRIFT_MS = 3_600_000  # by how much the clock of a running server may be ahead of the time that passed


@dataclass(slots=True)
class TrustedClock:
    """The time, unless it jumped ahead since it was last trusted; that time is stored in `file`.

    While a server runs, the time that really passed is known (`passed`, in seconds). `newest` is the time of the
    newest attempt, for a data folder without the file.
    """

    file: Path
    newest: Callable[[], Awaitable[int | None]]
    now_ms: Callable[[], int]
    passed: Callable[[], float]
    _trusted: tuple[int, float] | None = None  # the time in the file, and when this process read or wrote it
    _doubted: bool = field(default=False)

    async def time(self) -> int | None:
        """Unix milliseconds; None after a jump, which is logged once. Raises OSError and StorageError."""
        now = self.now_ms()
        last = await self._last(now)
        if now - last > self._passed_ms(last):
            self._doubt(now, last)
            return None
        if self._doubted:
            structlog.get_logger().info("clock trusted again", time=iso(now))
        self._doubted = False
        if self._trusted is None or abs(now - last) >= STORED_MS:
            confirm(self.file, now)
            self._trusted = now, self.passed()
        return now

    async def _last(self, now: int) -> int:
        """The time that was trusted last. It is stored before any new attempt has the time of a clock that jumped."""
        last = read_clock(self.file)
        if last is None:
            last = await self.newest() or now
            confirm(self.file, last)
        return last

    def _passed_ms(self, last: int) -> float:
        """How much later it can be than at the time that was trusted last."""
        if self._trusted is None or self._trusted[0] != last:
            return AWAY_MS  # another process stored it
        return (self.passed() - self._trusted[1]) * 1000 + DRIFT_MS

    def _doubt(self, now: int, last: int) -> None:
        if not self._doubted:
            structlog.get_logger().error(
                "clock jumped: nothing is deleted because of its age",
                time=iso(now),
                last_known=iso(last),
                hint=f"Correct the clock. If it is right, run: {verb('audit confirm-clock')}",
            )
        self._doubted = True


def read_clock(file: Path) -> int | None:
    """The time that was trusted last; None if none is stored, or nothing that is a time. Raises OSError."""
    try:
        text = file.read_text("ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() and len(text) < 16 else None


def confirm(file: Path, now_ms: int) -> None:
    """Store a time that is trusted. Raises OSError."""
    replace_file(file, str(now_ms).encode(), 0o600)
