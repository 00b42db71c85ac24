"""The audit on both databases: what is changed in it is found, what is old is cut off on record."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, text, update

from backend.accounts.signatures import Signer, new_signing_key, verify_signature
from backend.core.audit.chain import Anchor
from backend.core.audit.events import Kind
from backend.core.errors import StorageError
from backend.storage.audit_chain import SHORT, Chain
from backend.storage.audit_head import LedgerContext
from backend.storage.database import Database, database_url
from backend.storage.tables import audit_events, audit_head
from tests.storage.chains import EVENT, SIGNER, at, bodies, change, verify, whole
from tests.storage.writing import Ledger, attempt, keys_of, ledger_with, new_id, store

MOVED = [at(5).values(seq=99), at(6).values(seq=5), at(99).values(seq=6)]
COPIED = insert(audit_events).from_select(
    ["seq", "body", "hash"], select(EVENT.seq + 4, EVENT.body, EVENT.hash).where(EVENT.seq == 8)
)


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        ([at(5).values(body=func.replace(EVENT.body, "echo 2", "echo 3"))], "event 5 was changed"),
        ([at(5).values(hash=bytes(32))], "event 5 was changed"),
        ([delete(audit_events).where(EVENT.seq == 5)], "event 5 is missing"),
        ([delete(audit_events).where(EVENT.seq > 7)], "the chain ends at event 7, its signed head at 10"),
        ([delete(audit_events).where(EVENT.seq <= 2)], "events 1 to 2 are missing"),
        ([delete(audit_events)], "the chain ends at event 0, its signed head at 10"),
        (MOVED, "event 5 was changed"),
        ([COPIED], "event 11 is missing"),
        ([insert(audit_events).values(seq=-3, body="{}", hash=bytes(32))], "found event -3 where event 1 was expected"),
        ([update(audit_head).values(seq=9)], "the signature of the head is wrong"),
        ([update(audit_head).values(first_seq=2)], "found event 1 where event 2 was expected"),
        ([update(audit_head).values(signature=bytes(64))], "the signature of the head is wrong"),
        ([delete(audit_head)], "the audit has no head"),
        ([update(audit_head).values(id=2)], "the head of the audit cannot be read"),
    ],
)
async def test_what_is_changed_in_the_database_is_found(
    database: Database, ledger: Ledger, statements: list[Any], said: str
) -> None:
    for number in range(5):
        await ledger.executions.open(attempt(f"echo {number}"))
    await ledger.queue.sign()
    await whole(database)
    await change(database, *statements)
    found = (await verify(database)).problem
    assert found.startswith(said), found


async def test_any_byte_of_the_file_of_a_body_that_is_flipped_is_found(tmp_path: Path) -> None:
    database = Database(database_url(None, tmp_path))
    await database.migrate()
    ledger = store(database, SIGNER)
    await ledger.audit.prepare()
    await ledger.executions.open(attempt("echo ä\ufffd"))
    body = text("select cast(body as blob) from audit_events")
    stored: Any = await database.write(lambda one: one.execute(body).scalars().first())
    good = bytes(stored)
    for place in range(len(good)):
        bad = good[:place] + bytes([good[place] ^ 0x80]) + good[place + 1 :]
        for value in (bad, bad.decode("utf-8", "replace")):
            await change(
                database, text("update audit_events set body = cast(:v as text) where seq = 1").bindparams(v=value)
            )
            assert (await verify(database)).problem == "event 1 was changed, or the one before it"
    await change(database, text("update audit_events set body = :v, hash = 'x' where seq = 1").bindparams(v=good))
    assert (await verify(database)).problem == "event 1 was changed, or the one before it"
    await change(database, text("update audit_head set seq = 'many'"))
    assert (await verify(database)).problem == "the head of the audit cannot be read: it was changed"
    await database.close()


async def test_a_second_key_is_not_taken(database: Database, ledger: Ledger) -> None:
    with pytest.raises(StorageError, match="not signed with this server's key"):
        await store(database, Signer(new_signing_key())).audit.prepare()


async def test_a_chain_made_anew_without_the_key_is_found(database: Database, ledger: Ledger) -> None:
    await ledger.executions.open(attempt())
    forger = store(database, Signer(new_signing_key()))
    await change(database, delete(audit_events), delete(audit_head))
    await forger.audit.prepare()
    await forger.executions.open(attempt("echo nothing happened"))
    assert (await verify(database)).problem.startswith("the signature of the head is wrong")


async def test_old_events_are_cut_off_on_record_and_the_rest_verifies(new_url: str, database: Database) -> None:
    times = iter(f"2026-01-{day:02}T00:00:00.000Z" for day in range(1, 29))
    stamp = LedgerContext(lambda: 0, lambda: next(times), new_id, keys_of(SIGNER), verify_signature)
    ledger, other = ledger_with(database, stamp), ledger_with(Database(new_url), stamp)
    await ledger.audit.prepare()
    for _ in range(10):
        await ledger.audit.record(Kind.LOGIN, "user:ann", "10.0.0.1", {})
    await other.audit.record(Kind.LOGIN, "user:ann", "10.0.0.1", {})
    fifth = [link async for link in Chain(database).links()][4]
    assert await ledger.audit.prune("2026-01-01T00:00:00.000Z") == 0
    assert await ledger.audit.prune("2026-01-06T00:00:00.000Z") == 5
    assert (await whole(database)).head.first_seq == 6
    told = (await bodies(database))[-1]
    assert (told["kind"], told["first"], told["last"], told["last_hash"]) == ("pruned", 1, 5, fifth.hash.hex())
    assert (await verify(database, Anchor(5, fifth.hash), Anchor(3, bytes(32)))).problem == ""
    # Another process has the older head in mind, and goes on.
    await other.audit.record(Kind.LOGIN, "user:ann", "10.0.0.1", {})
    await ledger.audit.record(Kind.LOGIN, "user:ann", "10.0.0.1", {})
    assert (await whole(database)).events == 11 - 5 + 3
    assert await other.audit.prune("2027") == 9
    verdict = await whole(database)
    assert (verdict.events, verdict.head.first_seq, verdict.head.seq) == (1, 15, 15)
    await other.queue.database.close()


async def test_it_verifies_while_others_write_and_prune(new_url: str, database: Database) -> None:
    ledger = store(Database(new_url), SIGNER)
    await ledger.audit.prepare()
    writing = asyncio.create_task(_write_and_prune(ledger))
    verdicts = []
    while not writing.done():
        verdicts.append((await verify(database)).problem)
    await writing
    assert set(verdicts) == {""}
    await ledger.queue.database.close()


async def _write_and_prune(ledger: Ledger) -> None:
    for _ in range(30):
        await asyncio.gather(*(ledger.audit.record(Kind.LOGIN, "user:ann", "10.0.0.1", {}) for _ in range(20)))
        await ledger.audit.prune("2027")


async def test_long_events_are_read_one_by_one_and_of_none_more_than_ours_can_have(
    database: Database, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (10, 9000, 10, 70_000, 70_000):
        await ledger.executions.open(attempt("ä" * size))
    assert (await whole(database)).events == 10
    pages = [[len(link.body) > SHORT for link in page] async for page in Chain(database).pages()]
    assert sum(map(sum, pages)) == 3
    assert not any(long for page in pages for long in page[:-1])
    monkeypatch.setattr("backend.storage.audit_chain.LONGEST_BYTES", 50_000)
    assert (await verify(database)).problem == "event 7 was changed, or the one before it"
    assert max([len(link.body) async for link in Chain(database).links()]) <= 50_000


async def test_nothing_is_cut_off_that_somebody_made_old(database: Database) -> None:
    times = iter(f"2026-01-{day:02}T00:00:00.000Z" for day in range(1, 29))
    stamp = LedgerContext(lambda: 0, lambda: next(times), new_id, keys_of(SIGNER), verify_signature)
    ledger = ledger_with(database, stamp)
    await ledger.audit.prepare()
    for _ in range(9):
        await ledger.audit.record(Kind.LOGIN, "user:ann", "10.0.0.1", {})
    older = func.replace(func.replace(EVENT.body, "2026-01-05", "2025-01-05"), "2026-01-04", "2025-01-04")
    for statement in (at(5).values(body=older), at(4).values(body=older), at(2).values(body="{}")):
        await change(database, statement)
        with pytest.raises(StorageError, match=r"the audit is not intact: event \d was changed"):
            await ledger.audit.prune("2026-01-04T00:00:00.000Z")
        assert (await verify(database)).problem, "what was changed is there to be found"
