"""Closing what a dead server left, while others run commands."""

import asyncio
import os
from pathlib import Path

import pytest
from backend.storage.history import HistoryStore
from backend.storage.ledger import LedgerStore

from backend.accounts.credentials import Signer, new_signing_key
from backend.core.audit.attempts import Attempt
from backend.core.execution.model import Status
from backend.core.recording.writer import Recorder
from backend.runtime.recovery import recover
from backend.storage.audit_chain import Chain
from backend.storage.database import Database
from backend.storage.recordings import RecordingFile, RecordingFolder
from tests.core.recording.recorded import COMPLETE, STARTED
from tests.storage.conftest import database, new_url, postgresql
from tests.storage.writing import attempt, new_id, store

__all__ = ["database", "new_url", "postgresql"]


class House:
    """A data folder with its ledger and recordings."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.history = HistoryStore(database)
        self.ledger: LedgerStore = store(database, Signer(new_signing_key()))
        self.recordings = RecordingFolder(folder / "recordings")

    async def begin(self) -> tuple[Attempt, RecordingFile, Recorder]:
        one = attempt()
        log = self.recordings.create(one.id)
        await self.ledger.open(one)
        recorder = Recorder(one.id, log, lambda: 0.0)
        recorder.add(STARTED)
        return one, log, recorder

    async def recover(self) -> int:
        """What another server on the folder does."""
        return await recover(self.history, RecordingFolder(self.recordings.folder), self.ledger)

    async def status(self, one: Attempt) -> Status:
        found = await self.history.get(one.id)
        assert found
        return found.status

    async def kinds(self, one: Attempt) -> list[str]:
        events = [link.content async for link in Chain(self.ledger.database).links()]
        return [event["kind"] for event in events if event.get("execution") == one.id]


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> House:
    made = House(database, tmp_path)
    await made.ledger.prepare()
    return made


async def test_each_gets_the_ending_that_its_recording_tells(house: House) -> None:
    alive, _, _ = await house.begin()
    true, _, recorder = await house.begin()
    recorder.end(COMPLETE)
    cut, log, _ = await house.begin()
    os.close(log._fd)  # what the death of its server does
    gone, log, _ = await house.begin()
    os.close(log._fd)
    log.path.unlink()
    assert await house.recover() == 3
    assert [await house.status(each) for each in (alive, true, cut, gone)] == [
        Status.RUNNING,
        Status(COMPLETE.status),
        Status.LOST,
        Status.LOST,
    ]
    found = await house.history.get(true.id)
    assert found
    assert (found.exit_code, found.duration_ms) == (COMPLETE.exit_code, COMPLETE.duration_ms)
    assert [(await house.kinds(each))[2:] for each in (alive, true, cut, gone)] == [
        [],
        ["finished"],
        ["lost"],
        ["lost"],
    ]


async def test_servers_that_do_it_at_once_write_each_ending_once(house: House) -> None:
    left = []
    for _ in range(5):
        one, log, _ = await house.begin()
        os.close(log._fd)
        left.append(one)
    await asyncio.gather(*(house.recover() for _ in range(4)))
    assert await house.recover() == 0
    for one in left:
        assert await house.kinds(one) == ["submitted", "started", "lost"]


async def test_what_another_folder_holds_is_left_to_its_server(house: House) -> None:
    elsewhere = store(house.ledger.database, Signer(new_signing_key()), new_id())
    elsewhere.stamp = house.ledger.stamp
    one = attempt()
    await elsewhere.open(one)
    assert await house.recover() == 0
    assert await house.status(one) is Status.RUNNING
