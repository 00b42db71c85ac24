"""Cron expressions in a time zone. Times are Unix milliseconds.

A time of day that a change of the clock leaves out is due at the end of the gap; one that comes twice is due once. An
expression with `*` in its minutes or hours is due at its intervals of real time, through every change.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from itertools import pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from backend.core.dataclasses import dataclass
from backend.core.times import DAY_MS

LONGEST_CRON = 100  # characters
EXPRESSION = re.compile(r"[0-9A-Za-z*,/#-]+(?: [0-9A-Za-z*,/#-]+){4}")
ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,31}(?:/[A-Za-z0-9_+-]{1,31}){0,2}")


class CronError(ValueError):
    """The expression or the zone cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression with five fields, in a time zone."""

    expression: str
    zone: tzinfo

    @classmethod
    def parse(cls, expression: str, zone: str) -> "Cron":
        """Raises CronError, also for an expression that is never due, such as the 30th of February."""
        text = " ".join(expression[: LONGEST_CRON + 1].split())
        if len(expression) > LONGEST_CRON or not EXPRESSION.fullmatch(text):
            raise CronError("a cron expression has five fields: minute, hour, day of month, month, day of week")
        cron = cls(text, zone_named(zone))
        if cron.next_after(0) is None:
            raise CronError(f"{text!r} is never due")
        return cron

    def after(self, after_ms: int) -> Iterator[int]:
        """The due times after a time, without end. Raises CronError."""
        begin = datetime.fromtimestamp(after_ms // 1000, self.zone)
        try:
            # Within an hour that comes twice the first ones are those of its first pass, which is over.
            yield from (due for due in map(_milliseconds, CronSim(self.expression, begin)) if due > after_ms)
        except CronSimError as error:
            reason = str(error).replace("Bad ", "")
            raise CronError(f"{self.expression!r} has a {reason} that is invalid or never comes") from None

    def next_after(self, after_ms: int) -> int | None:
        """The first due time after a time; None if there is none within 50 years. Raises CronError."""
        return next(self.after(after_ms), None)

    def shortest_interval(self, after_ms: int) -> int:
        """The shortest time between two due times, over a day on which it is due and the time until the next."""
        first = next(self.after(after_ms))
        times = self.after(self._midnight_before(first) - 1)
        found = [next(times)]
        for due in times:
            found.append(due)
            if due > found[0] + DAY_MS:
                break
        return min(later - due for due, later in pairwise(found))

    def _midnight_before(self, time_ms: int) -> int:
        day = datetime.fromtimestamp(time_ms // 1000, self.zone).replace(hour=0, minute=0, second=0, fold=0)
        return _milliseconds(day)


def zone_named(name: str) -> tzinfo:
    """A zone of the time zone database. Raises CronError."""
    if name == "UTC":
        return UTC
    try:
        if not ZONE.fullmatch(name):
            raise ValueError
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise CronError(f"there is no time zone {name[:64]!r}; Europe/Berlin is one") from None


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp()) * 1000
