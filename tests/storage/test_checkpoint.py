"""The end of the audit in a file outside of the database: what cuts the database back is found."""

import asyncio
from pathlib import Path

import pytest

from backend.core.errors import StorageError
from backend.storage.checkpoint import read_anchor
from backend.storage.database import Database
from tests.storage.chains import SIGNER, bodies, cut_back, end_of, saved, verify, whole
from tests.storage.writing import Ledger, attempt, store


async def test_an_older_head_with_its_tail_cut_off_is_found_by_the_anchor(database: Database, ledger: Ledger) -> None:
    await ledger.executions.open(attempt())
    older = await saved(database)
    await ledger.executions.open(attempt())
    newer = await saved(database)
    await cut_back(database, older)
    await whole(database)
    noted = end_of(newer)
    assert (
        await verify(database, noted)
    ).problem == "the chain ends at event 2, but event 4 was anchored: the tail was cut off"
    with pytest.raises(StorageError, match="event 4 was there"):
        await ledger.executions.open(attempt())


async def test_the_anchor_follows_the_chain_and_a_start_without_it_is_on_record(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "audit.anchor"
    ledger = store(database, SIGNER, checkpoint=path)
    await ledger.audit.prepare()
    await ledger.executions.open(attempt())
    older = await saved(database)
    for _ in range(5):
        await ledger.executions.open(attempt())
    await ledger.finish()
    noted = read_anchor(path)
    assert noted
    assert noted.seq == 12
    assert (await verify(database, noted)).problem == ""
    assert [each.name for each in tmp_path.iterdir() if "anchor" in each.name] == ["audit.anchor"]

    again = store(database, SIGNER, checkpoint=path)
    await again.audit.prepare()
    assert (await whole(database)).breaks == ()
    await again.finish()

    await cut_back(database, older)
    await whole(database)
    assert "tail was cut off" in (await verify(database, noted)).problem
    late = store(database, SIGNER, checkpoint=path)
    await late.audit.prepare()
    await late.finish()
    verdict = await whole(database)
    assert verdict.breaks == (3,)
    assert (await bodies(database))[-1]["noted"] == str(noted)
    assert read_anchor(path) == verdict.head.end


async def test_an_anchor_that_cannot_be_written_stops_nothing_and_is_written_when_it_can(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "gone" / "audit.anchor"
    for there in (False, True):
        ledger = store(database, SIGNER, checkpoint=path)
        await ledger.audit.prepare()
        await ledger.executions.open(attempt())
        await ledger.queue.sign()
        assert ledger.queue.checkpoint
        assert ledger.queue.checkpoint._writing
        await asyncio.wait([ledger.queue.checkpoint._writing], timeout=0.1)  # one attempt, in vain
        assert read_anchor(path) is None
        if there:
            path.parent.mkdir()
        await ledger.finish()
    assert read_anchor(path) == (await whole(database)).head.end


@pytest.mark.parametrize("content", ["", "7", "7:" + "g" * 64, None])
async def test_an_anchor_that_tells_nothing_is_no_missing_one(
    database: Database, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "audit.anchor"
    path.write_text(content) if content is not None else path.mkdir()
    with pytest.raises(StorageError, match=r"recorded position of the audit cannot be read from .*audit\.anchor"):
        await store(database, SIGNER, checkpoint=path).audit.prepare()


async def test_no_server_puts_an_older_place_in_the_place_of_a_newer(
    new_url: str, database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "audit.anchor"
    ahead, behind = (store(Database(new_url), SIGNER, checkpoint=path) for _ in range(2))
    await ahead.audit.prepare()
    await behind.audit.prepare()
    await behind.executions.open(attempt())
    async with asyncio.timeout(60):
        while read_anchor(path) is None:
            await asyncio.sleep(0.02)
    for ledger in (behind, ahead):  # the first has written a moment ago, and waits
        await ledger.executions.open(attempt())
    await ahead.finish()
    await behind.finish()
    assert read_anchor(path) == (await whole(database)).head.end
    for ledger in (ahead, behind):
        await ledger.queue.database.close()


async def test_no_server_covers_up_that_what_another_noted_is_lost(
    new_url: str, database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "audit.anchor"
    one, other = (store(Database(new_url), SIGNER, checkpoint=path) for _ in range(2))
    await one.audit.prepare()
    await other.audit.prepare()
    await other.executions.open(attempt())
    await other.queue.sign()  # it looks at the chain no more until it writes
    older = await saved(database)
    for _ in range(2):
        await one.executions.open(attempt())
    await one.finish()
    noted = read_anchor(path)
    assert noted
    assert noted.seq == 6
    await cut_back(database, older)
    for _ in range(3):
        await other.executions.open(attempt())
    await other.finish()
    assert read_anchor(path) == noted
    await whole(database)
    assert (await verify(database, noted)).problem.startswith("event 6 is not the one that was anchored")
    late = store(database, SIGNER, checkpoint=path)
    await late.audit.prepare()
    await late.finish()
    verdict = await whole(database)
    assert verdict.breaks == (9,)
    assert read_anchor(path) == verdict.head.end
    for ledger in (one, other):
        await ledger.queue.database.close()


async def test_the_anchor_is_written_within_a_second_of_the_last_event(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "audit.anchor"
    ledger = store(database, SIGNER, checkpoint=path)
    await ledger.audit.prepare()
    for _ in range(3):
        await ledger.executions.open(attempt())
    async with asyncio.timeout(60):
        while (noted := read_anchor(path)) is None or noted.seq < 6:
            await asyncio.sleep(0.02)
    await ledger.finish()
