"""How much a workspace may hold."""

import pytest

from backend.core.execution.model import StopReason
from backend.core.quota import NO_QUOTA, Quota, WorkspaceUsage

QUOTA = Quota(bytes=1000, files=10, margin=50)
ROOM = 1 << 30


@pytest.mark.parametrize(
    ("usage", "free", "reason"),
    [
        (None, ROOM, None),
        (WorkspaceUsage(1000, 10), 50, None),
        (WorkspaceUsage(1001, 10), ROOM, StopReason.WORKSPACE_FULL),
        (WorkspaceUsage(1000, 11), ROOM, StopReason.WORKSPACE_FULL),
        (WorkspaceUsage(0, 0, hidden=True), ROOM, StopReason.WORKSPACE_FULL),
        (None, 49, StopReason.DISK_FULL),
        (WorkspaceUsage(1001, 11), 49, StopReason.DISK_FULL),
    ],
)
def test_the_limits_are_what_may_be_held(usage: WorkspaceUsage | None, free: int, reason: StopReason | None) -> None:
    assert QUOTA.breach(usage, free) is reason


def test_without_a_limit_of_bytes_nothing_is_counted() -> None:
    everything = WorkspaceUsage(1 << 60, 1 << 40, hidden=True)
    assert Quota(0, 10, 50).breach(everything, ROOM) is None
    assert Quota(0, 10, 50).breach(everything, 49) is StopReason.DISK_FULL
    assert NO_QUOTA.breach(everything, 0) is None


def test_the_notice_tells_what_is_full() -> None:
    assert "1001 bytes of 1000 bytes, 3 of 10 files" in QUOTA.notice(WorkspaceUsage(1001, 3), ROOM)
    assert "hides folders" in QUOTA.notice(WorkspaceUsage(0, 0, hidden=True), ROOM)
    assert "less than 50 bytes left" in QUOTA.notice(WorkspaceUsage(0, 0), 49)
