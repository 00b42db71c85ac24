"""Recordings are measured while the server does everything else."""

import asyncio
import time
from pathlib import Path

from backend.core.recording.retention import RecordingShares, Retention
from backend.core.times import DAY_MS
from backend.runtime.clock import new_id
from backend.runtime.persistence import open_stores
from backend.runtime.retention import RecordingRetention
from backend.runtime.settings import load_settings

MANY = 10_000
TURN = 0.015  # seconds of the processor that a turn of the loop may take


async def test_the_loop_is_left_to_others_while_many_recordings_are_measured(tmp_path: Path) -> None:
    stores = open_stores(load_settings(data_dir=tmp_path))
    await stores.database.migrate()
    for _ in range(MANY):
        (stores.recordings.folder / f"{new_id()}.ndjson").touch()
    retention = Retention(DAY_MS, 1)
    measuring = RecordingRetention(
        stores.recordings, stores.history, stores.audit, RecordingShares(), retention, stores.clock
    )
    work, longest = asyncio.create_task(measuring.run_once()), 0.0
    while not work.done():
        before = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - before)
    assert work.result() == 0
    assert longest < TURN
    await stores.close()
