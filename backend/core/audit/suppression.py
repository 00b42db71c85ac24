"""Floods: of what repeats without end, only the beginning of each minute is written, and how many more there were."""

from dataclasses import dataclass, field
from itertools import takewhile

WINDOW = 60_000  # milliseconds
MOST = 60  # of a kind, in a window


@dataclass(slots=True)
class _Window:
    began: int
    let_through: int = 0
    suppressed: int = 0


@dataclass(frozen=True, slots=True)
class Flood:
    """How many of a kind were not written since `began_ms`, in Unix milliseconds."""

    key: tuple[str, ...]
    began_ms: int
    suppressed: int


@dataclass(slots=True)
class Floods:
    """Counts what comes, by a key. Times are handed in, in Unix milliseconds."""

    most: int = MOST
    window: int = WINDOW
    _windows: dict[tuple[str, ...], _Window] = field(default_factory=dict)

    def admit(self, key: tuple[str, ...], now: int) -> bool:
        """Whether one more is to be written; otherwise it is counted. `over` has to be asked first."""
        window = self._windows.setdefault(key, _Window(now))
        if window.let_through < self.most:
            window.let_through += 1
            return True
        window.suppressed += 1
        return False

    @property
    def counting(self) -> bool:
        """Whether there is a flood that was not told yet."""
        return any(window.suppressed for window in self._windows.values())

    def over(self, now: int) -> list[Flood]:
        """The floods whose window has ended, once each; their windows are forgotten, and so are the quiet ones."""
        # They stand in the order in which they began, so the first that goes on is followed by others that do.
        ended = takewhile(lambda item: not 0 <= now - item[1].began < self.window, self._windows.items())
        return self._end([key for key, _ in ended])

    def end(self) -> list[Flood]:
        """All floods, ended or not."""
        return self._end(list(self._windows))

    def _end(self, keys: list[tuple[str, ...]]) -> list[Flood]:
        gone = [(key, self._windows.pop(key)) for key in keys]
        return [Flood(key, window.began, window.suppressed) for key, window in gone if window.suppressed]
