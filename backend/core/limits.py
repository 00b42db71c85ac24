"""Limits on how many commands run and how often. The counters are passed in, so that all transports share them."""

import re
from collections import Counter, deque
from collections.abc import Callable, Set
from typing import Protocol, Self

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision, Risk
from backend.core.figures import duration_text
from backend.core.identity import Principal

UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
SWEEP_EVERY = 1024  # hits between two searches for expired windows
RATE = re.compile(r"(\d+)\s*/\s*(?:(\d+)\s*)?(second|minute|hour|day)s?")


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` times in `seconds`, in a moving window."""

    count: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `10/5 minutes`, `30/minute`. Raises ValueError."""
        found = RATE.fullmatch(text.strip())
        if not found or not int(found[1]) or found[2] == "0":
            raise ValueError(f"{text!r} is not a rate such as '10/5 minutes' or '120/minute'")
        return cls(int(found[1]), int(found[2] or 1) * UNITS[found[3]])

    def __str__(self) -> str:
        unit = max((name for name in UNITS if self.seconds % UNITS[name] == 0), key=lambda name: UNITS[name])
        number = self.seconds // UNITS[unit]
        return f"{self.count} in {f'{number} {unit}s' if number > 1 else f'a {unit}'}"


@dataclass(frozen=True, slots=True)
class Budget:
    """What is left of a rate: `remaining` now, and one more in `reset` seconds (0.0 while nothing is used)."""

    rate: Rate
    remaining: int
    reset: float


class RateLimiter(Protocol):
    """Counts against one Rate, shared by all its users."""

    @property
    def rate(self) -> Rate: ...

    async def hit(self, key: str) -> float:
        """Count one request of `key`: 0.0 when it is admitted, else the seconds until it would be."""
        ...

    async def wait(self, key: str) -> float:
        """The same without counting."""
        ...

    async def left(self, key: str) -> Budget:
        """What `key` has left."""
        ...


async def check_rate(limiter: RateLimiter, keys: tuple[str, ...], what: str = "commands") -> Decision | None:
    """Refuse when any of `keys` has used up its window; the first key is counted first."""
    for key in keys:
        if wait := await limiter.hit(key):
            return Decision.deny(
                "limits.rate",
                f"Too many {what}: {limiter.rate} are allowed. The next one is accepted in {duration_text(round(wait + 0.5))}.",
                "Wait, then send it again.",
                risk=Risk.SAFE,
                retry_after=wait,
            )
    return None


async def least_left(limiter: RateLimiter, keys: tuple[str, ...]) -> Budget:
    """What is left where all of `keys` are counted."""
    return min([await limiter.left(key) for key in keys], key=lambda budget: (budget.remaining, -budget.reset))


class Windows:
    """Moving windows as queues of times; a hit costs the same however many keys and entries there are.

    Their clock is monotonic: when that of the machine is set back, no client has to wait until it is as late again.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: dict[str, deque[float]] = {}
        self._hits = 0

    def acquire(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` for `key` unless that would make more than `limit` in `expiry` seconds."""
        now = self._clock()
        self._sweep(now - expiry)
        window = self._times.setdefault(key, deque())
        while window and window[0] <= now - expiry:
            window.popleft()
        if len(window) + amount > limit:
            return False
        window.extend([now] * amount)
        return True

    def state(self, key: str, expiry: int) -> tuple[float, int]:
        """How many seconds old the oldest entry is that counts, and how many there are."""
        now = self._clock()
        counted = [at for at in self._times.get(key, ()) if at > now - expiry]
        return now - counted[0] if counted else 0.0, len(counted)

    @property
    def keys(self) -> Set[str]:
        """What is counted."""
        return self._times.keys()

    def _sweep(self, oldest: float) -> None:
        """Delete windows without current entries, so that visitors who left take no memory."""
        self._hits += 1
        if self._hits % SWEEP_EVERY == 0:
            self._times = {key: window for key, window in self._times.items() if window and window[-1] > oldest}


@dataclass(slots=True)
class Pace:
    """A rate that is waited for instead of refused: `burst` at once, then `rate` a second. Times are in seconds."""

    rate: float
    burst: int
    _due: float = 0.0  # when the next one would be on time if there were no burst

    def wait(self, now: float) -> float:
        """Count one; the seconds that it has to wait."""
        self._due = max(self._due, now - self.burst / self.rate)
        wait = max(0.0, self._due - now)
        self._due += 1 / self.rate
        return wait


def share_of_accounts(total: int, percent: int) -> int:
    """How many of `total` places only accounts can take."""
    return total * percent // 100


class Slots:
    """How many commands run at once: for each principal, in total, and of visitors, who leave `reserved` to accounts."""

    def __init__(self, per_principal: int, total: int, reserved: int = 0) -> None:
        self.per_principal = per_principal
        self.total = total
        self.for_visitors = total - reserved
        self.taken: Counter[str] = Counter()
        self.by_visitors = 0

    def acquire(self, who: Principal) -> Decision | None:
        """Take a slot, or return why there is none."""
        if self.taken[who.name] >= self.per_principal:
            return self._busy("limits.concurrency", f"{self.per_principal} of your commands are running")
        if self.taken.total() >= self.total:
            return self._busy("limits.busy", f"All {self.total} slots of this server are in use")
        if not who.user and self.by_visitors >= self.for_visitors:
            return self._busy("limits.busy", f"All {self.for_visitors} slots for visitors are in use")
        self.taken[who.name] += 1
        self.by_visitors += not who.user
        return None

    def release(self, who: Principal) -> None:
        """Give a slot back."""
        self.taken[who.name] -= 1
        self.by_visitors -= not who.user
        if not self.taken[who.name]:
            del self.taken[who.name]

    def _busy(self, rule: str, reason: str) -> Decision:
        hint = "Wait for one to end, or cancel it."
        return Decision.deny(rule, f"{reason}.", hint, risk=Risk.SAFE, retry_after=1.0)
