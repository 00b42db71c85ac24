"""Threads that are there before they are needed."""

import threading

import pytest

from backend.core.threads import started_threads


def test_they_work_when_no_thread_can_be_started_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = started_threads(3, "test")
    monkeypatch.setattr("threading.Thread.start", None)
    meeting = threading.Barrier(3, timeout=60)
    assert sorted(each.result() for each in [threads.submit(meeting.wait) for _ in range(3)]) == [0, 1, 2]
    threads.shutdown()
