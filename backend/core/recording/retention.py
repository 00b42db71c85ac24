"""How much may be recorded and how long it is stored. Pure: times and sizes are passed in.

What an account has recorded within a day is bounded as it is written, so that no client can fill the folder at the expense
of others. The oldest recordings of the owner with the most are deleted to make room.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from operator import attrgetter

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision, Risk
from backend.core.figures import size_text
from backend.core.identity import Principal
from backend.core.ids import first_id
from backend.core.times import DAY_MS

SHARE = 4  # an owner may record a quarter of all that is stored within a day
UNLIMITED = 2**63


@dataclass(frozen=True, slots=True)
class Stored:
    """A recording and its bytes. `owner` is the id of an account, or VISITORS."""

    execution: str
    owner: str
    size: int


@dataclass(frozen=True, slots=True)
class Retention:
    """How long and how much is stored: milliseconds and bytes."""

    age_ms: int
    size: int


def to_delete(
    stored: Iterable[Stored], retention: Retention, now_ms: int | None, is_needed: Callable[[str], bool]
) -> list[str]:
    """The recordings that are too old, then the oldest of the largest owner until the rest is small enough.

    The age is that of the id, since any command of the same user could change the times of a file. Without a time none
    is too old.
    """
    known = list(stored)
    before = first_id(0 if now_ms is None else now_ms - retention.age_ms)
    old = [each.execution for each in known if each.execution < before and not is_needed(each.execution)]
    rest = set(old)
    excess = _excess([each for each in known if each.execution not in rest], retention.size, is_needed)
    return [*old, *excess]


def of_a_day(stored: Iterable[Stored], now_ms: int) -> Counter[str]:
    """The bytes that each owner has recorded within a day."""
    sizes, since = Counter[str](), first_id(now_ms - DAY_MS)
    for each in stored:
        if each.execution > since:
            sizes[each.owner] += each.size
    return sizes


def _excess(known: list[Stored], limit: int, is_needed: Callable[[str], bool]) -> Iterator[str]:
    total = sum(each.size for each in known)
    if total <= limit:
        return
    sizes, oldest = Counter[str](), defaultdict[str, deque[Stored]](deque)
    for each in sorted(known, key=attrgetter("execution")):
        sizes[each.owner] += each.size
        oldest[each.owner].append(each)
    while total > limit and oldest:
        owner = max(oldest, key=sizes.__getitem__)
        found = oldest[owner].popleft()
        if not oldest[owner]:
            del oldest[owner]
        if not is_needed(found.execution):
            total -= found.size
            sizes[owner] -= found.size
            yield found.execution


@dataclass(slots=True)
class RecordingShares:
    """What each owner has recorded within a day, in bytes: as it was measured, and what this server added since.

    What other servers of the folder record is included from the next measurement on.
    """

    share: int = UNLIMITED
    changed: bool = True  # whether something was added since the last measurement began
    _measured: Counter[str] = field(default_factory=Counter)
    _added: Counter[str] = field(default_factory=Counter)

    def add(self, owner: str, size: int) -> bool:
        """Count what is about to be written; False if the owner has no room for it."""
        self._added[owner] += size
        self.changed = True
        return self._used(owner) <= self.share

    def begin(self) -> Counter[str]:
        """A measurement begins, which contains what was added before."""
        self.changed = False
        return self._added.copy()

    def measured(self, sizes: Counter[str], before: Counter[str]) -> None:
        """What each owner has recorded within a day, as a measurement found that began `before`."""
        self._measured = sizes
        self._added = self._added - before

    def refusal(self, principal: Principal) -> Decision | None:
        """Refuse a principal whose share is used up."""
        used = self._used(principal.account)
        if used < self.share:
            return None
        whose = "your account" if principal.user else "all visitors together"
        reason = (
            f"The recordings of {whose} from the last day have {size_text(used)}; {size_text(self.share)} are allowed."
        )
        hint = "Try again when the first of them is a day old, or ask the operator to raise GATEPOST_RETENTION_BYTES."
        return Decision.deny("limits.recordings", reason, hint, risk=Risk.SAFE)

    def _used(self, owner: str) -> int:
        return self._measured[owner] + self._added[owner]
