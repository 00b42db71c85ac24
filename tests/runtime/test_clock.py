"""The clock and the ids of what is made now."""

import subprocess
import sys

import pytest

from backend.runtime.clock import new_id, utc_now


def test_ids_are_unlike_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(id) for id in ids} == {26}
    assert max(ids)[:9] <= new_id()[:9]
    monkeypatch.setattr("backend.runtime.clock.time.time_ns", lambda: 0)
    assert new_id().startswith("0000000000")


def test_the_time_is_utc_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.runtime.clock.time.time_ns", lambda: 1_767_323_045_678_999_999)
    assert utc_now() == "2026-01-02T03:04:05.678Z"


def test_the_time_since_boot_includes_that_in_which_the_machine_slept() -> None:
    # In a time namespace in which the machine has slept for a day.
    slept = ["unshare", "--map-root-user", "--time", "--boottime", "86400", "--fork", sys.executable, "-c"]
    program = "import time; from backend.runtime.clock import since_boot; print(since_boot() - time.monotonic())"
    found = subprocess.run([*slept, program], capture_output=True, text=True, timeout=60)
    if "unshare" in found.stderr:
        pytest.skip("this machine has no time namespaces for everybody")
    assert float(found.stdout) > 86000
