"""The writer on both databases: what it returned from stays, in one chain, whoever writes and whatever fails."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, text, update
from sqlalchemy.ext.asyncio import create_async_engine

from backend.accounts.signatures import Signer, new_signing_key, verify_signature
from backend.core.audit.attempts import Completion, Record
from backend.core.audit.chain import TrustedKey
from backend.core.audit.events import LONGEST_BODY, Kind
from backend.core.errors import StorageError
from backend.core.execution.model import Status
from backend.storage.audit_chain import Chain
from backend.storage.database import PATIENCE, Database, database_url, rows
from backend.storage.execution_history import SqlExecutionHistory
from backend.storage.tables import audit_events, audit_head, executions
from tests.serving import ROOT
from tests.storage.chains import EVENT, SIGNER, bodies, change, cut_back, saved, trust, verify, whole
from tests.storage.writing import (
    ENDED,
    Ledger,
    attempt,
    change_key,
    ledger_of,
    now_ms,
    opened,
    store,
)


async def test_one_that_cannot_be_written_does_not_take_others_with_it(database: Database, ledger: Ledger) -> None:
    known = attempt()
    await ledger.executions.open(known)
    good = [attempt() for _ in range(5)]
    results = await asyncio.gather(
        *map(ledger.executions.open, [*good[:3], known, *good[3:]]),
        ledger.audit.record(Kind.LOGIN, "a", "b", {}),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None)] * 3 + [StorageError] + [type(None)] * 3
    assert (await whole(database)).events == 2 + 5 * 2 + 1


async def test_many_at_once_cost_few_transactions(database: Database, ledger: Ledger) -> None:
    commits = 0
    call = database.call_short

    def counting(work: Any, then: Any) -> None:
        nonlocal commits
        commits += 1
        call(work, then)

    database.call_short = counting  # type: ignore[method-assign]
    await asyncio.gather(*(ledger.executions.open(attempt()) for _ in range(200)))
    assert commits <= 3  # of the first, of all others, of the signature
    assert (await whole(database)).events == 400


async def test_two_ledgers_on_one_database_write_one_chain(new_url: str, database: Database) -> None:
    ledgers = [store(Database(new_url), SIGNER) for _ in range(3)]
    await asyncio.gather(*(ledger.audit.prepare() for ledger in ledgers))

    async def write(ledger: Ledger) -> None:
        for _ in range(20):
            one = attempt()
            await ledger.executions.open(one)
            await ledger.executions.close(one, ENDED)

    await asyncio.gather(*(write(ledger) for ledger in ledgers for _ in range(2)))
    assert (await whole(database)).events == 3 * 2 * 20 * 3
    for ledger in ledgers:
        await ledger.finish()
        await ledger.queue.database.close()


def writer(url: str, key: Path, count: int) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "tests.storage.writing", url, str(key), str(count)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "audit.key"
    path.write_bytes(new_signing_key())
    return path


async def test_processes_that_write_at_once_make_one_chain(new_url: str, database: Database, key: Path) -> None:
    signer = Signer(key.read_bytes())
    await store(database, signer).audit.prepare()
    processes = [writer(new_url, key, 20) for _ in range(3)]
    for process in processes:
        assert await asyncio.to_thread(process.wait, 180) == 0
        assert process.stdout
        process.stdout.close()
    verdict = await Chain(database).verify(trust(signer))
    assert (verdict.problem, verdict.events) == ("", 3 * 20 * 5 * 3)


async def test_what_it_returned_from_outlives_the_killed_process(new_url: str, database: Database, key: Path) -> None:
    signer = Signer(key.read_bytes())
    ledger = store(database, signer)
    await ledger.audit.prepare()
    process = writer(new_url, key, 100_000)
    assert process.stdout
    told = [process.stdout.readline().decode().strip() for _ in range(60)]
    process.kill()
    process.wait()
    told += [line.decode().strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
    process.stdout.close()
    history = SqlExecutionHistory(database)
    assert [id for id in told if not await history.get(id)] == []
    events = {event.get("execution") for event in await bodies(database)}
    assert set(told) <= events
    await ledger.audit.record(Kind.LOGIN, "user:ann", "10.0.0.1", {})
    verdict = await Chain(database).verify(trust(signer))
    assert verdict.problem == ""


async def test_a_caller_who_goes_away_is_written_all_the_same(database: Database, ledger: Ledger) -> None:
    gone, stays = attempt(), attempt()
    waiting = [asyncio.ensure_future(ledger.executions.open(each)) for each in (gone, stays)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await waiting[1]
    assert waiting[0].cancelled()
    assert await SqlExecutionHistory(database).get(gone.id)
    await whole(database)


async def test_a_database_that_fails_is_told_and_the_chain_goes_on(database: Database, ledger: Ledger) -> None:
    await ledger.executions.open(attempt())
    await change(database, text("alter table executions rename to elsewhere"))
    for _ in range(2):
        with pytest.raises(StorageError):
            await ledger.executions.open(attempt())
    await change(database, text("alter table elsewhere rename to executions"))
    await ledger.executions.open(attempt())
    assert (await whole(database)).events == 4


@pytest.mark.parametrize("new_url", ["postgresql"], indirect=True)
async def test_a_database_that_does_not_answer_is_told_to_all_that_wait_and_the_chain_goes_on(
    new_url: str, database: Database, ledger: Ledger
) -> None:
    other = create_async_engine(new_url)
    async with other.begin() as connection:
        await connection.execute(text("select * from audit_head for update"))
        first = asyncio.ensure_future(ledger.executions.open(attempt()))
        await asyncio.sleep(0)
        begun = time.monotonic()
        results = await asyncio.gather(
            first, *(ledger.executions.open(attempt()) for _ in range(3)), return_exceptions=True
        )
        assert [type(result) for result in results] == [StorageError] * 4
        assert time.monotonic() - begun < 3 * PATIENCE
    await other.dispose()
    await ledger.executions.open(attempt())
    assert (await whole(database)).events == 2


@pytest.mark.parametrize("new_url", ["postgresql"], indirect=True)
async def test_a_lease_that_is_extended_meanwhile_is_not_overlooked(
    new_url: str, database: Database, ledger: Ledger
) -> None:
    history, until, lost = SqlExecutionHistory(database), now_ms() + 60_000, Completion(Status.LOST, None, 0)
    records: list[Record] = []
    for one in [attempt(), attempt()]:
        await ledger.executions.open(one)
        records += filter(None, [await history.get(one.id)])
    other = create_async_engine(new_url)
    async with other.begin() as renewal:
        extended = update(executions).where(executions.c.id == records[0].id).values(lease_until_ms=until + 1)
        await renewal.execute(extended)
        closing = asyncio.gather(*(ledger.ownership.close_expired(record, until, lost) for record in records))
        async with asyncio.timeout(60):
            while not await _locks_waited_for(database):
                pass
    assert await closing == [False, True]
    await other.dispose()
    kept = await history.get(records[0].id)
    assert kept
    assert kept.status is Status.RUNNING
    assert (await whole(database)).events == 2 * 2 + 1


async def _locks_waited_for(database: Database) -> int:
    return len(await database.read(rows(text("select 1 from pg_locks where not granted"))))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here; tests/e2e/test_crash.py bounds the size of files instead")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_is_told_and_the_chain_goes_on_when_there_is_room(small_disk: Path) -> None:
    database = Database(database_url(None, small_disk))
    await database.migrate()
    ledger = store(database, SIGNER)
    await ledger.audit.prepare()
    written = []
    with pytest.raises(StorageError, match="full"):
        for _ in range(5000):
            one = attempt("x" * 900)
            await ledger.executions.open(one)
            written.append(one.id)
    results = await asyncio.gather(
        *(ledger.executions.open(attempt("x" * 900)) for _ in range(50)), return_exceptions=True
    )
    assert {type(result) for result in results} == {StorageError}
    assert {event.get("execution") for event in await bodies(database)} == set(written)
    await whole(database)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    await ledger.executions.open(attempt())
    assert (await whole(database)).events == 2 * len(written) + 2
    await database.close()


async def test_an_ending_is_written_once_by_all_who_find_it_missing(new_url: str, database: Database) -> None:
    ledgers = [store(Database(new_url), SIGNER) for _ in range(3)]
    for ledger in ledgers:
        await ledger.audit.prepare()
    one = attempt()
    await ledgers[0].executions.open(one)
    lost = Completion(Status.LOST, None, 0)
    await asyncio.gather(*(ledger.executions.close(one, lost) for ledger in ledgers))
    await ledgers[0].executions.close(one, ENDED)
    assert [event["kind"] for event in await bodies(database)] == ["submitted", "started", "lost"]
    await whole(database)
    for ledger in ledgers:
        await ledger.queue.database.close()


async def test_an_event_that_nobody_would_read_again_is_not_written(database: Database, ledger: Ledger) -> None:
    results = await asyncio.gather(
        ledger.executions.open(attempt()),
        ledger.executions.open(attempt("x" * LONGEST_BODY)),
        ledger.executions.open(attempt()),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), StorageError, type(None)]
    assert (await whole(database)).events == 4


async def test_a_head_that_was_changed_is_not_built_on(database: Database, ledger: Ledger) -> None:
    await ledger.executions.open(attempt())
    await change(database, delete(audit_events).where(EVENT.seq > 1), update(audit_head).values(seq=1, hash=bytes(32)))
    for each in (ledger, store(database, SIGNER)):
        with pytest.raises(StorageError, match="not signed with this server's key"):
            await each.executions.open(attempt())
        with pytest.raises(StorageError, match="not signed with this server's key"):
            await each.audit.prepare()
    assert "signature" in (await verify(database)).problem


async def test_a_chain_that_another_server_built_on_after_it_was_cut_back_is_not_built_on(
    new_url: str, database: Database, ledger: Ledger
) -> None:
    other = store(Database(new_url), SIGNER)
    await other.audit.prepare()
    await other.executions.open(attempt())
    await other.queue.sign()  # it looks at the chain no more until it writes
    older = await saved(database)
    for _ in range(2):
        await ledger.executions.open(attempt())
    await cut_back(database, older)
    for _ in range(3):
        await other.executions.open(attempt())
    await whole(database)
    with pytest.raises(StorageError, match="event 6 is not the one that was there"):
        await ledger.executions.open(attempt())
    await other.executions.open(attempt())
    await other.queue.database.close()


async def test_a_head_that_is_held_fast_lets_nothing_run(tmp_path: Path) -> None:
    database = Database(database_url(None, tmp_path))
    await database.migrate()
    keys = opened(tmp_path)
    ledger = ledger_of(database, keys)
    await ledger.audit.prepare()
    await ledger.executions.open(attempt())
    trigger = "create trigger held before update on audit_head begin select raise(ignore); end"
    await change(database, text(trigger))
    for each in (ledger, ledger_of(database, keys)):
        with pytest.raises(StorageError, match="does not move"):
            await each.executions.open(attempt())
        with pytest.raises(StorageError, match="does not move"):
            await each.audit.prune("2027")
    with pytest.raises(StorageError, match="does not move"):
        await change_key(database, opened(tmp_path))
    assert (tmp_path / "audit.pub").read_bytes() == keys.current.public_pem
    await change(database, text("drop trigger held"))
    await ledger.executions.open(attempt())
    verdict = await Chain(database).verify(TrustedKey(keys.current.public, verify_signature))
    assert (verdict.problem, verdict.events) == ("", 4)
    await database.close()
