"""Which hosts can be expected to answer."""

from dataclasses import replace

import pytest

from backend.core.hosts.messages import MOST_AGE
from backend.core.hosts.registry import HEALTHY_FOR, RETURNS_WITHIN, HostEntry

NOW = 1_700_000_000.0
ONLINE = HostEntry("web-01", True, NOW)


@pytest.mark.parametrize(
    ("entry", "later", "healthy", "may_return"),
    [
        (ONLINE, 0, True, True),
        (ONLINE, HEALTHY_FOR - 1, True, True),
        (ONLINE, HEALTHY_FOR, False, False),
        (replace(ONLINE, online=False), 0, False, False),  # it has said that it ends
        (replace(ONLINE, gone=True), RETURNS_WITHIN - 1, False, True),  # it was killed, and is started again
        (replace(ONLINE, gone=True), RETURNS_WITHIN, False, False),
        (ONLINE, -MOST_AGE, True, True),
        (ONLINE, -MOST_AGE - 1, False, False),  # its clock is wrong: its commands would be dropped
    ],
)
def test_a_killed_host_is_waited_for(entry: HostEntry, later: float, healthy: bool, may_return: bool) -> None:
    assert (entry.is_healthy(NOW + later), entry.may_return(NOW + later)) == (healthy, may_return)
