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
from tests.storage.writing import attempt

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


async def test_what_has_no_end_yet_is_not_deleted(tmp_path: Path) -> None:
    stores = open_stores(load_settings(data_dir=tmp_path))
    await stores.database.migrate()
    await stores.audit.prepare()
    left, ended = attempt(), new_id()  # the server of the one has died, and its end is not recorded yet
    await stores.executions.open(left)
    for execution in (left.id, ended):
        (stores.recordings.folder / f"{execution}.ndjson").write_bytes(bytes(1000))
    retention = RecordingRetention(
        stores.recordings, stores.history, stores.audit, RecordingShares(), Retention(DAY_MS, 1), stores.clock
    )
    assert await retention.run_once() == 1
    assert [path.stem for path in stores.recordings.folder.iterdir()] == [left.id]
    await stores.write_rest()
    await stores.close()
