"""Suspicious activity: each rule at its border, and an alert told once while it stays open."""

import pytest

from backend.core.audit.anomalies import AlertTracker, AttemptSummary, alerts, is_counted

FINE = AttemptSummary(failed=False, deletes=False, dangerous=False)
FAILED = AttemptSummary(failed=True, deletes=False, dangerous=False)
DELETES = AttemptSummary(failed=False, deletes=True, dangerous=False)
DANGEROUS = AttemptSummary(failed=False, deletes=False, dangerous=True)


def found(*traces: AttemptSummary) -> list[tuple[str, str, int]]:
    return [(alert.type, alert.severity, alert.count) for alert in alerts(traces)]


@pytest.mark.parametrize(
    ("traces", "expected"),
    [
        ([], []),
        ([FINE] * 50, []),
        ([FINE] * 51, [("rapid_execution", "high", 51)]),
        ([FAILED] * 9, []),
        ([FAILED] * 5 + [FINE] * 5, []),
        ([FAILED] * 6 + [FINE] * 4, [("high_failure_rate", "medium", 6)]),
        ([DELETES] * 10, []),
        ([DELETES] * 11, [("excessive_deletions", "high", 11)]),
        ([DANGEROUS] * 5, []),
        ([DANGEROUS] * 6, [("high_risk_activity", "high", 6)]),
    ],
)
def test_the_borders(traces: list[AttemptSummary], expected: list[tuple[str, str, int]]) -> None:
    assert found(*traces) == expected


@pytest.mark.parametrize(
    ("rule", "dry_run", "counted"),
    [
        ("allow.ls", False, True),
        ("program.unlisted", False, True),
        ("limits.concurrency", False, True),
        ("allow.ls", True, False),
        ("syntax.quote", False, False),
        ("limits.rate", False, False),
        ("project.unknown", False, False),
        ("target.unknown", False, False),
    ],
)
def test_only_what_was_meant_to_run_counts(rule: str, dry_run: bool, counted: bool) -> None:
    assert is_counted(rule, dry_run=dry_run) is counted


def test_an_alert_is_told_when_it_opens_and_again_when_it_opens_anew() -> None:
    watch = AlertTracker()
    told = [watch.observe("ann", DELETES, float(second)) for second in range(12)]
    assert [len(opened) for opened in told] == [0] * 10 + [1, 0]
    assert watch.observe("ann", FINE, 1000.0) == []
    again = [watch.observe("ann", DELETES, 2000.0 + second) for second in range(11)]
    assert [alert.type for opened in again for alert in opened] == ["excessive_deletions"]


def test_users_are_looked_at_apart_and_forgotten() -> None:
    watch = AlertTracker()
    for second in range(11):
        assert watch.observe(f"user{second}", DELETES, float(second)) == []
    watch.observe("late", FINE, 1000.0)
    assert set(watch._users) == {"late"}
