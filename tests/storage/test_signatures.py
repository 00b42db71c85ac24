"""The head is signed once for all that was written within a moment; what is not signed yet is not at the mercy of others."""

import asyncio
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, text, update

from backend.core.audit.events import Kind
from backend.core.errors import StorageError
from backend.storage.audit_chain import Chain
from backend.storage.checkpoint import read_anchor
from backend.storage.database import Database, database_url
from backend.storage.tables import audit_events, audit_head
from tests.storage.chains import EVENT, SIGNER, at, bodies, change, verify, whole
from tests.storage.writing import ENDED, Ledger, attempt, store


class CountingSigner:
    """The signer of the tests, which counts."""

    public, public_pem, mac = SIGNER.public, SIGNER.public_pem, SIGNER.mac

    def __init__(self) -> None:
        self.made = 0

    def sign(self, data: bytes) -> bytes:
        self.made += 1
        return SIGNER.sign(data)


@pytest.fixture
def unsigned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is signed before the end, as if all happened within a moment."""
    monkeypatch.setattr("backend.storage.commit_queue.SIGN_AFTER", 10_000.0)


async def write(ledger: Ledger, commands: int) -> None:
    for _ in range(commands):
        one = attempt()
        await ledger.executions.open(one)
        await ledger.executions.close(one, ENDED)


async def test_many_transactions_cost_one_signature(
    unsigned: None, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    signer, anchor = CountingSigner(), tmp_path / "audit.anchor"
    ledger = store(database, signer, checkpoint=anchor)  # type: ignore[arg-type]
    await ledger.audit.prepare()
    await write(ledger, 1)
    signer.made = 0
    await write(ledger, 9)
    assert signer.made == 0
    verdict = await whole(database)
    assert (verdict.events, verdict.unsigned, verdict.head.seq) == (30, 30, 0)
    assert read_anchor(anchor) is None, "an anchor is a place that is signed"
    await ledger.finish()
    assert signer.made == 1
    verdict = await whole(database)
    assert (verdict.events, verdict.unsigned, verdict.head.seq) == (30, 0, 30)
    assert read_anchor(anchor) == verdict.head.end


async def test_the_head_is_signed_soon_and_without_another_event(database: Database, ledger: Ledger) -> None:
    await ledger.executions.open(attempt())
    async with asyncio.timeout(30):
        while (await whole(database)).unsigned:
            await asyncio.sleep(0.02)


async def test_a_signature_that_cannot_be_written_is_written_later(
    unsigned: None, database: Database, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.storage.commit_queue.RETRY_AFTER", 0.05)
    await ledger.executions.open(attempt())
    await change(database, text("alter table audit_head rename to elsewhere"))
    ledger.queue._sign_next()
    await ledger.queue._idle.wait()
    await change(database, text("alter table elsewhere rename to audit_head"))
    async with asyncio.timeout(30):
        while (await whole(database)).unsigned:
            await asyncio.sleep(0.02)


async def test_what_a_killed_server_had_not_signed_is_signed_by_the_next(
    unsigned: None, new_url: str, database: Database, ledger: Ledger
) -> None:
    await write(ledger, 2)
    await ledger.queue.sign()
    await write(ledger, 3)  # and is killed
    verdict = await whole(database)
    assert (verdict.events, verdict.unsigned, verdict.head.seq) == (15, 9, 6)
    await store(database, SIGNER).audit.prepare()
    verdict = await whole(database)
    assert (verdict.events, verdict.unsigned) == (15, 0)


async def test_another_server_goes_on_where_nothing_is_signed_yet(
    unsigned: None, new_url: str, database: Database, ledger: Ledger
) -> None:
    other = store(Database(new_url), SIGNER)
    await other.audit.prepare()
    for _ in range(3):
        await write(ledger, 1)
        await write(other, 1)
    verdict = await whole(database)
    assert (verdict.events, verdict.unsigned) == (18, 18)
    await other.finish()
    await write(ledger, 1)
    assert ((await whole(database)).events, (await whole(database)).unsigned) == (21, 3)
    await other.queue.database.close()


FORGED = func.replace(EVENT.body, "echo", "rm")


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        ([delete(audit_events).where(EVENT.seq == 12)], "the chain ends at event 11, its recorded end at 12"),
        ([delete(audit_events).where(EVENT.seq > 5)], "the chain ends at event 5, its signed head at 6"),
        ([delete(audit_events).where(EVENT.seq == 8)], "event 8 is missing"),
        ([at(10).values(body=FORGED)], "event 10 was changed"),
        ([at(4).values(body=FORGED)], "event 4 was changed"),
        ([update(audit_head).values(end_seq=11)], "the chain ends at event 12, its recorded end at 11"),
        ([update(audit_head).values(end_hash=bytes(32))], "the chain ends at event 12, its recorded end at 12"),
        ([update(audit_head).values(end_seq=6)], "the head of the audit cannot be read"),
        ([update(audit_head).values(end_mac=None)], "the head of the audit cannot be read"),
        ([update(audit_head).values(end_seq=None, end_hash=None, end_mac=None)], "the chain ends at event 12, its signed head at 6"),
        ([update(audit_head).values(signature=bytes(64))], "the signature of the head is wrong"),
        ([update(audit_head).values(seq=5)], "the signature of the head is wrong"),
    ],
)  # fmt: skip
async def test_what_is_changed_before_it_is_signed_is_found(
    unsigned: None, database: Database, ledger: Ledger, statements: list[Any], said: str
) -> None:
    await write(ledger, 2)
    await ledger.queue.sign()
    await write(ledger, 2)
    await change(database, *statements)
    found = (await verify(database)).problem
    assert found.startswith(said), found


@pytest.mark.parametrize(
    "changed",
    [{"end_mac": bytes(32)}, {"end_seq": 11}, {"end_hash": bytes(32)}, {"signature": bytes(64)}, {"seq": 5}],
)
async def test_no_server_continues_an_end_that_its_key_did_not_authenticate(
    unsigned: None, database: Database, ledger: Ledger, changed: dict[str, Any]
) -> None:
    await write(ledger, 2)
    await ledger.queue.sign()
    await write(ledger, 2)
    await change(database, update(audit_head).values(**changed))
    later = store(database, SIGNER)
    with pytest.raises(StorageError, match="not signed with this server's key"):
        await later.audit.prepare()
    with pytest.raises(StorageError, match="not signed with this server's key"):
        await later.executions.open(attempt())


async def test_a_forged_end_is_signed_by_no_server(unsigned: None, database: Database, ledger: Ledger) -> None:
    """Whoever writes to the database can put another event after the signed ones, but not a MAC for it."""
    await write(ledger, 1)
    await ledger.queue.sign()
    forger = store(database, SIGNER)
    await forger.audit.prepare()
    mac = (await Chain(database).head()).mac  # type: ignore[union-attr]
    assert mac == b""
    await forger.audit.record(Kind.LOGIN, "user:eve", "", {})
    await change(database, update(audit_head).values(end_mac=bytes(32)))
    assert (await verify(database)).unsigned == 1, "the public key alone cannot show it yet"
    for each in (ledger, store(database, SIGNER)):
        with pytest.raises(StorageError, match="not signed with this server's key"):
            await each.executions.open(attempt())


def image(folder: Path, to: Path, log_bytes: int) -> Database:
    """The files as a device has them that lost what was written after so many bytes of SQLite's log."""
    to.mkdir()
    shutil.copy(folder / "gatepost.db", to)
    (to / "gatepost.db-wal").write_bytes((folder / "gatepost.db-wal").read_bytes()[:log_bytes])
    return Database(database_url(None, to))


async def test_what_was_flushed_is_intact_when_the_rest_is_lost(
    unsigned: None, in_file: Database, tmp_path: Path
) -> None:
    """Each transaction is flushed before it returns, so the log up to there is what survives a loss of power."""
    log, flushed = tmp_path / "gatepost.db-wal", list[tuple[int, str]]()
    ledger = store(in_file, SIGNER)
    await ledger.audit.prepare()
    for number in range(6):
        one = attempt()
        await ledger.executions.open(one)
        flushed.append((log.stat().st_size, one.id))
        if number == 2:
            await ledger.queue.sign()
    sizes = sorted({cut for size, _ in flushed for cut in (size, size + 1, size + 4096)})
    for cut in sizes:
        left = image(tmp_path, tmp_path / str(cut), cut)
        started = {id for size, id in flushed if size <= cut}
        assert started <= {event["execution"] for event in await bodies(left)}
        await whole(left)
        later = store(left, SIGNER)
        await later.audit.prepare()
        await later.executions.open(attempt())
        await later.finish()
        assert (await whole(left)).unsigned == 0
        await left.close()


async def test_a_short_transaction_is_flushed_as_any_other(in_file: Database) -> None:
    levels = [
        await in_file.write_short(lambda connection: connection.execute(text("pragma synchronous"), {}).fetchone()),
        await in_file.write(lambda connection: connection.execute(text("pragma synchronous")).fetchone()),
    ]
    assert [tuple(level or ()) for level in levels] == [(2,), (2,)]  # FULL: each transaction


async def test_an_audit_of_an_earlier_version_goes_on(in_file: Database, tmp_path: Path) -> None:
    """Its row is the same as one that nothing follows."""
    ledger = store(in_file, SIGNER)
    await ledger.audit.prepare()
    await write(ledger, 1)
    await ledger.finish()
    with sqlite3.connect(tmp_path / "gatepost.db") as database:
        row = database.execute("select end_seq, end_hash, end_mac from audit_head").fetchone()
    database.close()
    assert row == (None, None, None)
    again = store(in_file, SIGNER)
    await again.audit.prepare()
    await write(again, 1)
    await again.finish()
    assert (await whole(in_file)).events == 6
