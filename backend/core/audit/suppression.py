"""Repeated refusals: only the first of each minute are recorded, with the number of those that were suppressed."""

from dataclasses import field
from itertools import takewhile

from backend.core.dataclasses import dataclass

WINDOW = 60_000  # milliseconds
MOST = 60  # of a kind, in a window


@dataclass(slots=True)
class _Window:
    began: int
    admitted: int = 0
    suppressed: int = 0


@dataclass(frozen=True, slots=True)
class SuppressedRefusals:
    """How many refusals with the same key were not recorded since `began_ms`, in Unix milliseconds."""

    key: tuple[str, ...]
    began_ms: int
    suppressed: int


@dataclass(slots=True)
class RefusalSuppressor:
    """Counts refusals by a key. Times are passed in, in Unix milliseconds."""

    most: int = MOST
    window: int = WINDOW
    _windows: dict[tuple[str, ...], _Window] = field(default_factory=dict)

    def admit(self, key: tuple[str, ...], now: int) -> bool:
        """Whether one more is to be recorded; otherwise it is counted. Call `expire` first."""
        window = self._windows.setdefault(key, _Window(now))
        if window.admitted < self.most:
            window.admitted += 1
            return True
        window.suppressed += 1
        return False

    @property
    def has_unreported(self) -> bool:
        """Whether refusals were suppressed that have not been reported yet."""
        return any(window.suppressed for window in self._windows.values())

    def expire(self, now: int) -> list[SuppressedRefusals]:
        """Report what was suppressed in the windows that have ended, once each. All ended windows are removed."""
        # The windows are in the order in which they began, so the first that has not ended is followed by others.
        ended = takewhile(lambda item: not 0 <= now - item[1].began < self.window, self._windows.items())
        return self._remove([key for key, _ in ended])

    def drain(self) -> list[SuppressedRefusals]:
        """Report what was suppressed in all windows, ended or not."""
        return self._remove(list(self._windows))

    def _remove(self, keys: list[tuple[str, ...]]) -> list[SuppressedRefusals]:
        removed = [(key, self._windows.pop(key)) for key in keys]
        return [
            SuppressedRefusals(key, window.began, window.suppressed) for key, window in removed if window.suppressed
        ]
