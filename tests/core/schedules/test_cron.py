"""Cron expressions: the days on which clocks change, and texts that are none."""

from datetime import UTC, datetime
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest

from backend.core.schedules.cron import Cron, CronError, zone_named

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
# The first of two days in 2026 on which the clocks of a zone are set forward (by an hour, in the last one by half an
# hour), and on which they are set back.
FORWARD = {"Europe/Berlin": (3, 28), "America/New_York": (3, 7), "Australia/Lord_Howe": (10, 3)}
BACK = {"Europe/Berlin": (10, 24), "America/New_York": (10, 31), "Australia/Lord_Howe": (4, 4)}


def local(cron: str, zone: str, month: int, day: int, count: int) -> list[str]:
    """The next due times from noon of a day on, by the clock on the wall."""
    begin = datetime(2026, month, day, 12, tzinfo=ZoneInfo(zone))
    found = islice(Cron.parse(cron, zone).after(int(begin.timestamp() * 1000)), count)
    return [datetime.fromtimestamp(due / 1000, ZoneInfo(zone)).strftime("%d %H:%M") for due in found]


def utc(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp() * 1000)  # type: ignore[arg-type,misc]


def test_a_time_that_is_left_out_is_due_at_the_end_of_the_gap() -> None:
    due = {zone: local("15 2 * * *", zone, *FORWARD[zone], 2) for zone in ZONES}
    assert due == {
        "Europe/Berlin": ["29 03:00", "30 02:15"],
        "America/New_York": ["08 03:00", "09 02:15"],
        "Australia/Lord_Howe": ["04 02:30", "05 02:15"],
    }


def test_a_time_that_comes_twice_is_due_once() -> None:
    at = {"Europe/Berlin": "30 2 * * *", "America/New_York": "30 1 * * *", "Australia/Lord_Howe": "45 1 * * *"}
    due = {zone: local(cron, zone, *BACK[zone], 2) for zone, cron in at.items()}
    assert due == {
        "Europe/Berlin": ["25 02:30", "26 02:30"],
        "America/New_York": ["01 01:30", "02 01:30"],
        "Australia/Lord_Howe": ["05 01:45", "06 01:45"],
    }


def test_within_an_hour_that_comes_twice_no_due_time_is_in_the_past() -> None:
    second = utc(2026, 10, 25, 1, 15)  # 02:15 in Berlin for the second time; 02:30 was due an hour ago
    assert Cron.parse("30 2 * * *", "Europe/Berlin").next_after(second) == utc(2026, 10, 26, 1, 30)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("day", [FORWARD, BACK])
def test_intervals_are_of_real_time(zone: str, day: dict[str, tuple[int, int]]) -> None:
    begin = int(datetime(2026, *day[zone], 12, tzinfo=ZoneInfo(zone)).timestamp() * 1000)
    due = list(islice(Cron.parse("*/30 * * * *", zone).after(begin), 50))
    assert {later - earlier for earlier, later in pairwise(due)} == {30 * 60_000}


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("cron", ["30 2 * * *", "*/20 * * * *", "0 1-3 * * *", "0 0 * * 0"])
def test_one_after_the_other_is_what_all_at_once_are(zone: str, cron: str) -> None:
    at_once = list(islice(Cron.parse(cron, zone).after(utc(2026, 3, 1)), 60))
    now, each = utc(2026, 3, 1), []
    for _ in at_once:
        now = Cron.parse(cron, zone).next_after(now) or 0
        each.append(now)
    assert each == at_once == sorted(set(at_once))


@pytest.mark.parametrize(
    ("cron", "problem"),
    [
        ("* * * * * *", "five fields"),
        ("x" * 10_000, "five fields"),
        ("* " * 5_000, "five fields"),
        ("", "five fields"),
        ("@daily", "five fields"),
        ("* * * *", "five fields"),
        ("*\n* * * *\0", "five fields"),
        ("٣ * * * *", "five fields"),
        ("60 * * * *", "minute"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "minute"),
        (f"{'9' * 90} * * * *", "minute"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 2,4,6,9,11 *", "never comes"),
        ("0 0 */31 * MON#3", "never due"),
    ],
)
def test_what_is_no_expression_is_refused(cron: str, problem: str) -> None:
    with pytest.raises(CronError, match=problem):
        Cron.parse(cron, "UTC")


@pytest.mark.parametrize("zone", ["", "Berlin", "Europe", "../../etc/passwd", "/etc/localtime", "x" * 10_000, "UTC\0"])
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(CronError, match="no time zone"):
        zone_named(zone)


def test_utc_needs_no_time_zone_database() -> None:
    assert zone_named("UTC") is UTC


@pytest.mark.parametrize(
    ("cron", "minutes"),
    [
        ("* * * * *", 1),
        ("*/50 * * * *", 10),
        ("0,1 0 1 1 *", 1),
        ("59 23 * * *", 1440),
        ("0,59 0,23 * * *", 1),
        ("0 0 29 2 *", 4 * 365 * 1440),
    ],
)
def test_the_shortest_interval(cron: str, minutes: int) -> None:
    assert Cron.parse(cron, "UTC").shortest_interval(utc(2026, 5, 5, 12)) // 60_000 >= minutes
    if minutes <= 1440:
        assert Cron.parse(cron, "UTC").shortest_interval(utc(2026, 5, 5, 12)) == minutes * 60_000
