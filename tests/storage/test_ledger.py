"""The ledger on both databases: what it returned from stays, in one chain, whoever writes and whatever fails."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from backend.core.audit import Anchor, Kind
from backend.core.errors import StorageError
from backend.core.executions import Status
from backend.core.ledger import Ending
from backend.credentials import Signer, new_signing_key, verify_signature
from backend.storage.chain import Chain, Verdict
from backend.storage.database import Database
from backend.storage.history import HistoryStore
from backend.storage.ledger import LedgerStore
from tests.serving import ROOT
from tests.storage.writing import ENDED, attempt, refusal, store

SIGNER = Signer(new_signing_key())


@pytest.fixture
async def ledger(database: Database) -> LedgerStore:
    made = store(database, SIGNER)
    await made.prepare()
    return made


async def verify(database: Database, *anchors: Anchor) -> Verdict:
    return await Chain(database).verify(
        lambda statement, signature: verify_signature(SIGNER.public_pem, statement, signature), anchors
    )


async def whole(database: Database) -> Verdict:
    """The verdict, which has to be good."""
    verdict = await verify(database)
    assert verdict.problem == ""
    return verdict


async def bodies(database: Database) -> list[dict[str, Any]]:
    return [link.content async for link in Chain(database).links()]


async def test_a_command_is_a_row_and_events(database: Database, ledger: LedgerStore) -> None:
    one = attempt("echo 'ä\n\"seq\":7,'")
    await ledger.open(one)
    history = HistoryStore(database)
    found = await history.get(one.id)
    assert found
    assert (found.status, found.command, found.principal) == (Status.RUNNING, one.command, "user:ann")
    await ledger.close(one, Ending(Status.CANCELLED, 143, 12, "user:bob", "L2", {"cpu_ms": 3, "layers": None}))
    found = await history.get(one.id)
    assert found
    assert (found.status, found.exit_code, found.duration_ms, found.protection) == (Status.CANCELLED, 143, 12, "L2")
    events = await bodies(database)
    assert [event["kind"] for event in events] == ["submitted", "started", "cancelled", "finished"]
    assert {event["execution"] for event in events} == {one.id}
    assert (events[0]["command"], events[2]["by"], events[3]["cpu_ms"]) == (one.command, "user:bob", 3)
    assert "layers" not in events[3]
    assert (await whole(database)).events == 4


async def test_a_dry_run_never_started_and_a_refusal_is_an_end(database: Database, ledger: LedgerStore) -> None:
    dry, denied, limited = attempt(dry_run=True), attempt(decision=refusal()), attempt(decision=refusal("limits.rate"))
    await ledger.open(dry)
    await ledger.refuse(denied)
    await ledger.refuse(limited)
    assert [event["kind"] for event in await bodies(database)] == ["submitted", "denied", "rate_limited"]
    assert [(await HistoryStore(database).get(each.id)).status for each in (denied, limited)] == [Status.DENIED] * 2  # type: ignore[union-attr]


@pytest.mark.parametrize("command", ["a\0b", "a\ud800b", "a\x1b[0m\u2028\U0001f600b"])
async def test_no_text_keeps_an_attempt_out_of_the_audit(database: Database, ledger: LedgerStore, command: str) -> None:
    one = attempt(command, refusal(), working_dir=command)
    await ledger.refuse(one)
    assert (await bodies(database))[0]["command"] == command
    assert await HistoryStore(database).get(one.id)
    await whole(database)


async def test_one_that_cannot_be_written_does_not_take_others_with_it(database: Database, ledger: LedgerStore) -> None:
    known = attempt()
    await ledger.open(known)
    good = [attempt() for _ in range(5)]
    results = await asyncio.gather(
        *map(ledger.open, [*good[:3], known, *good[3:]]), ledger.note(Kind.LOGIN, "a", "b", {}), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None)] * 3 + [StorageError] + [type(None)] * 3
    assert (await whole(database)).events == 2 + 5 * 2 + 1


async def test_many_at_once_cost_few_transactions(database: Database, ledger: LedgerStore) -> None:
    commits = 0
    write = database.write

    async def counting(work: Any) -> Any:
        nonlocal commits
        commits += 1
        return await write(work)

    database.write = counting  # type: ignore[method-assign]
    await asyncio.gather(*(ledger.open(attempt()) for _ in range(200)))
    assert commits <= 2
    assert (await whole(database)).events == 400


async def test_two_ledgers_on_one_database_write_one_chain(new_url: str, database: Database) -> None:
    ledgers = [store(Database(new_url), SIGNER) for _ in range(3)]
    await asyncio.gather(*(ledger.prepare() for ledger in ledgers))

    async def write(ledger: LedgerStore) -> None:
        for _ in range(20):
            one = attempt()
            await ledger.open(one)
            await ledger.close(one, ENDED)

    await asyncio.gather(*(write(ledger) for ledger in ledgers for _ in range(2)))
    assert (await whole(database)).events == 3 * 2 * 20 * 3
    for ledger in ledgers:
        await ledger.close_writer()
        await ledger.database.close()


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
    await store(database, signer).prepare()
    processes = [writer(new_url, key, 20) for _ in range(3)]
    for process in processes:
        assert await asyncio.to_thread(process.wait, 60) == 0
        assert process.stdout
        process.stdout.close()
    verdict = await Chain(database).verify(lambda what, signature: verify_signature(signer.public_pem, what, signature))
    assert (verdict.problem, verdict.events) == ("", 3 * 20 * 5 * 3)


async def test_what_it_returned_from_outlives_the_killed_process(new_url: str, database: Database, key: Path) -> None:
    signer = Signer(key.read_bytes())
    ledger = store(database, signer)
    await ledger.prepare()
    process = writer(new_url, key, 100_000)
    assert process.stdout
    told = [process.stdout.readline().decode().strip() for _ in range(60)]
    process.kill()
    process.wait()
    told += [line.decode().strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
    process.stdout.close()
    history = HistoryStore(database)
    assert [id for id in told if not await history.get(id)] == []
    events = {event.get("execution") for event in await bodies(database)}
    assert set(told) <= events
    await ledger.note(Kind.LOGIN, "user:ann", "10.0.0.1", {})
    verdict = await Chain(database).verify(lambda what, signature: verify_signature(signer.public_pem, what, signature))
    assert verdict.problem == ""


async def test_a_caller_who_goes_away_is_written_all_the_same(database: Database, ledger: LedgerStore) -> None:
    gone, stays = attempt(), attempt()
    waiting = [asyncio.ensure_future(ledger.open(each)) for each in (gone, stays)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await waiting[1]
    assert waiting[0].cancelled()
    assert await HistoryStore(database).get(gone.id)
    await whole(database)


async def test_a_database_that_fails_is_told_and_the_chain_goes_on(database: Database, ledger: LedgerStore) -> None:
    await ledger.open(attempt())
    async with database.begin() as connection:
        await connection.execute(text("alter table executions rename to elsewhere"))
    for _ in range(2):
        with pytest.raises(StorageError):
            await ledger.open(attempt())
    async with database.begin() as connection:
        await connection.execute(text("alter table elsewhere rename to executions"))
    await ledger.open(attempt())
    assert (await whole(database)).events == 4


async def test_an_ending_is_written_once_by_all_who_find_it_missing(new_url: str, database: Database) -> None:
    ledgers = [store(Database(new_url), SIGNER) for _ in range(3)]
    for ledger in ledgers:
        await ledger.prepare()
    one = attempt()
    await ledgers[0].open(one)
    lost = Ending(Status.LOST, None, 0)
    await asyncio.gather(*(ledger.close(one, lost, once=True) for ledger in ledgers))
    await ledgers[0].close(one, ENDED, once=True)
    assert [event["kind"] for event in await bodies(database)] == ["submitted", "started", "lost"]
    await whole(database)
    for ledger in ledgers:
        await ledger.database.close()
