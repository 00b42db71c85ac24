"""The ledger on both databases: what it returned from stays, in one chain, whoever writes and whatever fails."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, text, update

from backend.accounts.credentials import Signer, new_signing_key, verify_signature
from backend.core.audit.attempts import Completion
from backend.core.audit.chain import Anchor, Trust, Verdict
from backend.core.audit.events import LONGEST_BODY, Kind
from backend.core.audit.suppression import RefusalSuppressor
from backend.core.errors import KeyFileError, StorageError
from backend.core.execution.model import Status, Usage
from backend.core.identity import Principal
from backend.storage.audit_chain import SHORT, Chain
from backend.storage.checkpoint import AnchorFile, read_anchor
from backend.storage.database import Database, database_url
from backend.storage.history import HistoryStore
from backend.storage.keys import AuditKeys
from backend.storage.ledger import LedgerStore, Stamp
from backend.storage.tables import audit_events, audit_head
from tests.serving import ROOT
from tests.storage.writing import ENDED, attempt, keys_of, new_id, refusal, store

SIGNER = Signer(new_signing_key())


@pytest.fixture
async def ledger(database: Database) -> LedgerStore:
    made = store(database, SIGNER)
    await made.prepare()
    return made


def trust(signer: Signer) -> Trust:
    return Trust(signer.public, verify_signature)


async def verify(database: Database, *anchors: Anchor) -> Verdict:
    return await Chain(database).verify(trust(SIGNER), anchors)


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
    await ledger.close(
        one, Completion(Status.CANCELLED, 143, 12, stopped_by="user:bob", usage=Usage(3, protection="L2"))
    )
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
        *map(ledger.open, [*good[:3], known, *good[3:]]),
        ledger.record(Kind.LOGIN, "a", "b", {}),
        return_exceptions=True,
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
    verdict = await Chain(database).verify(trust(signer))
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
    await ledger.record(Kind.LOGIN, "user:ann", "10.0.0.1", {})
    verdict = await Chain(database).verify(trust(signer))
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
    await ledger.prepare()
    written = []
    with pytest.raises(StorageError, match="full"):
        for _ in range(5000):
            one = attempt("x" * 900)
            await ledger.open(one)
            written.append(one.id)
    results = await asyncio.gather(*(ledger.open(attempt("x" * 900)) for _ in range(50)), return_exceptions=True)
    assert {type(result) for result in results} == {StorageError}
    assert {event.get("execution") for event in await bodies(database)} == set(written)
    await whole(database)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    await ledger.open(attempt())
    assert (await whole(database)).events == 2 * len(written) + 2
    await database.close()


async def test_an_ending_is_written_once_by_all_who_find_it_missing(new_url: str, database: Database) -> None:
    ledgers = [store(Database(new_url), SIGNER) for _ in range(3)]
    for ledger in ledgers:
        await ledger.prepare()
    one = attempt()
    await ledgers[0].open(one)
    lost = Completion(Status.LOST, None, 0)
    await asyncio.gather(*(ledger.close(one, lost, once=True) for ledger in ledgers))
    await ledgers[0].close(one, ENDED, once=True)
    assert [event["kind"] for event in await bodies(database)] == ["submitted", "started", "lost"]
    await whole(database)
    for ledger in ledgers:
        await ledger.database.close()


async def change(database: Database, *statements: Any) -> None:
    """What somebody with the database in hand can do."""
    async with database.begin() as connection:
        for statement in statements:
            await connection.execute(statement)


EVENT = audit_events.c


def at(seq: int) -> Any:
    return update(audit_events).where(EVENT.seq == seq)


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
    database: Database, ledger: LedgerStore, statements: list[Any], said: str
) -> None:
    for number in range(5):
        await ledger.open(attempt(f"echo {number}"))
    await whole(database)
    await change(database, *statements)
    found = (await verify(database)).problem
    assert found.startswith(said), found


async def test_any_byte_of_the_file_of_a_body_that_is_flipped_is_found(tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/gatepost.db")
    await database.migrate()
    ledger = store(database, SIGNER)
    await ledger.prepare()
    await ledger.open(attempt("echo ä\ufffd"))
    good = bytes(
        await database.write(
            lambda one: one.execute(text("select cast(body as blob) from audit_events")).scalars().first()
        )
    )
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


async def saved(database: Database) -> Any:
    async with database.begin() as connection:
        return (await connection.execute(select(audit_head))).one()


async def cut_back(database: Database, head: Any) -> None:
    await change(
        database, delete(audit_events).where(EVENT.seq > head.seq), update(audit_head).values(**dict(head._mapping))
    )


async def test_an_older_head_with_its_tail_cut_off_is_found_by_the_anchor(
    database: Database, ledger: LedgerStore
) -> None:
    await ledger.open(attempt())
    older = await saved(database)
    await ledger.open(attempt())
    newer = await saved(database)
    await cut_back(database, older)
    await whole(database)
    noted = Anchor(newer.seq, bytes(newer.hash))
    assert (
        await verify(database, noted)
    ).problem == "the chain ends at event 2, but event 4 was anchored: the tail was cut off"
    with pytest.raises(StorageError, match="event 4 was there"):
        await ledger.open(attempt())


async def test_a_head_that_was_changed_is_not_built_on(database: Database, ledger: LedgerStore) -> None:
    await ledger.open(attempt())
    await change(database, delete(audit_events).where(EVENT.seq > 1), update(audit_head).values(seq=1, hash=bytes(32)))
    for each in (ledger, store(database, SIGNER)):
        with pytest.raises(StorageError, match="not signed with this server's key"):
            await each.open(attempt())
        with pytest.raises(StorageError, match="not signed with this server's key"):
            await each.prepare()
    assert "signature" in (await verify(database)).problem


async def test_a_second_key_is_not_taken(database: Database, ledger: LedgerStore) -> None:
    with pytest.raises(StorageError, match="not signed with this server's key"):
        await store(database, Signer(new_signing_key())).prepare()


async def test_a_chain_made_anew_without_the_key_is_found(database: Database, ledger: LedgerStore) -> None:
    await ledger.open(attempt())
    forger = store(database, Signer(new_signing_key()))
    await change(database, delete(audit_events), delete(audit_head))
    await forger.prepare()
    await forger.open(attempt("echo nothing happened"))
    assert (await verify(database)).problem.startswith("the signature of the head is wrong")


async def test_the_anchor_follows_the_chain_and_a_start_without_it_is_on_record(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "audit.anchor"
    ledger = store(database, SIGNER, anchor=AnchorFile(path))
    await ledger.prepare()
    await ledger.open(attempt())
    older = await saved(database)
    for _ in range(5):
        await ledger.open(attempt())
    await ledger.close_writer()
    noted = read_anchor(path)
    assert noted
    assert noted.seq == 12
    assert (await verify(database, noted)).problem == ""
    assert [each.name for each in tmp_path.iterdir() if "anchor" in each.name] == ["audit.anchor"]

    again = store(database, SIGNER, anchor=AnchorFile(path))
    await again.prepare()
    assert (await whole(database)).breaks == ()
    await again.close_writer()

    await cut_back(database, older)
    await whole(database)
    assert "tail was cut off" in (await verify(database, noted)).problem
    late = store(database, SIGNER, anchor=AnchorFile(path))
    await late.prepare()
    await late.close_writer()
    verdict = await whole(database)
    assert verdict.breaks == (3,)
    assert (await bodies(database))[-1]["noted"] == str(noted)
    assert read_anchor(path) == verdict.head.end


async def test_an_anchor_that_cannot_be_written_stops_nothing_and_is_written_when_it_can(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "gone" / "audit.anchor"
    for there in (False, True):
        ledger = store(database, SIGNER, anchor=AnchorFile(path))
        await ledger.prepare()
        await ledger.open(attempt())
        assert ledger.anchor
        assert ledger.anchor._writing
        await asyncio.wait([ledger.anchor._writing], timeout=0.1)  # one attempt, in vain
        assert read_anchor(path) is None
        if there:
            path.parent.mkdir()
        await ledger.close_writer()
    assert read_anchor(path) == (await whole(database)).head.end


@pytest.mark.parametrize("content", ["", "7", "7:" + "g" * 64, None])
async def test_an_anchor_that_tells_nothing_is_no_missing_one(
    database: Database, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "audit.anchor"
    path.write_text(content) if content is not None else path.mkdir()
    with pytest.raises(StorageError, match=r"noted place of the audit cannot be read from .*audit\.anchor"):
        await store(database, SIGNER, anchor=AnchorFile(path)).prepare()


async def test_no_server_puts_an_older_place_in_the_place_of_a_newer(
    new_url: str, database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "audit.anchor"
    ahead, behind = (store(Database(new_url), SIGNER, anchor=AnchorFile(path)) for _ in range(2))
    await ahead.prepare()
    await behind.prepare()
    await behind.open(attempt())
    async with asyncio.timeout(10):
        while read_anchor(path) is None:
            await asyncio.sleep(0.02)
    for ledger in (behind, ahead):  # the first has written a moment ago, and waits
        await ledger.open(attempt())
    await ahead.close_writer()
    await behind.close_writer()
    assert read_anchor(path) == (await whole(database)).head.end
    for ledger in (ahead, behind):
        await ledger.database.close()


async def test_no_server_covers_up_that_what_another_noted_is_lost(
    new_url: str, database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "audit.anchor"
    one, other = (store(Database(new_url), SIGNER, anchor=AnchorFile(path)) for _ in range(2))
    await one.prepare()
    await other.prepare()
    await other.open(attempt())
    older = await saved(database)
    for _ in range(2):
        await one.open(attempt())
    await one.close_writer()
    noted = read_anchor(path)
    assert noted
    assert noted.seq == 6
    await cut_back(database, older)
    for _ in range(3):
        await other.open(attempt())
    await other.close_writer()
    assert read_anchor(path) == noted
    await whole(database)
    assert (await verify(database, noted)).problem.startswith("event 6 is not the one that was anchored")
    late = store(database, SIGNER, anchor=AnchorFile(path))
    await late.prepare()
    await late.close_writer()
    verdict = await whole(database)
    assert verdict.breaks == (9,)
    assert read_anchor(path) == verdict.head.end
    for ledger in (one, other):
        await ledger.database.close()


async def test_the_anchor_is_written_within_a_second_of_the_last_event(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "audit.anchor"
    ledger = store(database, SIGNER, anchor=AnchorFile(path))
    await ledger.prepare()
    for _ in range(3):
        await ledger.open(attempt())
    async with asyncio.timeout(10):
        while (noted := read_anchor(path)) is None or noted.seq < 6:
            await asyncio.sleep(0.02)
    await ledger.close_writer()


async def test_a_flood_is_written_at_its_beginning_and_counted(database: Database) -> None:
    now = 1_700_000_000_000
    stamp = Stamp(lambda: now, lambda: "2026-01-02T03:04:05.678Z", new_id, keys_of(SIGNER), verify_signature)
    ledger = LedgerStore(database, stamp, "F", floods=RefusalSuppressor(most=3))
    await ledger.prepare()
    limited = [
        attempt(decision=refusal("limits.rate"), principal=Principal(f"visitor:{n}", "10.0.0.1")) for n in range(50)
    ]
    for each in limited:
        await ledger.refuse(each)
    await ledger.refuse(attempt(decision=refusal("limits.rate"), principal=Principal("visitor:a", "10.0.0.2")))
    for _ in range(5):
        await ledger.refuse(attempt("rm x", decision=refusal("blocked.rm")))
    events = await bodies(database)
    assert [event["kind"] for event in events] == ["rate_limited"] * 4 + ["denied"] * 5
    assert await HistoryStore(database).get(limited[2].id)
    assert await HistoryStore(database).get(limited[3].id) is None
    now += 60_000
    await ledger.refuse(limited[4])
    told = [event for event in await bodies(database) if "suppressed" in event]
    await ledger.close_writer()
    assert [(each["suppressed"], each["address"], each["rule"], each["since"]) for each in told] == [
        (47, "10.0.0.1", "limits.rate", "2023-11-14T22:13:20.000Z")
    ]
    await whole(database)


@pytest.mark.parametrize("close", [True, False])
async def test_a_flood_is_told_at_its_end_though_nobody_comes_any_more(database: Database, close: bool) -> None:
    ledger = store(database, SIGNER, floods=RefusalSuppressor(most=1, window=60_000 if close else 100))
    await ledger.prepare()
    for _ in range(3):
        await ledger.refuse(attempt(decision=refusal("role.forbidden")))
    if close:
        await ledger.close_writer()
    async with asyncio.timeout(10):
        while not [event for event in await bodies(database) if "suppressed" in event]:
            await asyncio.sleep(0.02)
    assert (await bodies(database))[-1]["kind"] == "denied"


async def test_old_executions_go_and_the_running_stay(database: Database, ledger: LedgerStore) -> None:
    ended, running = attempt(), attempt()
    for each in (ended, running):
        await ledger.open(each)
    await ledger.close(ended, ENDED)
    assert await ledger.prune(0) == 0
    assert await ledger.prune(1 << 50) == 1
    history = HistoryStore(database)
    assert await history.get(ended.id) is None
    assert await history.get(running.id)
    assert (await bodies(database))[-1] | {"kind": "pruned", "executions": 1} == (await bodies(database))[-1]
    await whole(database)


async def test_old_events_are_cut_off_on_record_and_the_rest_verifies(new_url: str, database: Database) -> None:
    times = iter(f"2026-01-{day:02}T00:00:00.000Z" for day in range(1, 29))
    stamp = Stamp(lambda: 0, lambda: next(times), new_id, keys_of(SIGNER), verify_signature)
    ledger, other = LedgerStore(database, stamp, "F"), LedgerStore(Database(new_url), stamp, "F")
    await ledger.prepare()
    for _ in range(10):
        await ledger.record(Kind.LOGIN, "user:ann", "10.0.0.1", {})
    await other.record(Kind.LOGIN, "user:ann", "10.0.0.1", {})
    fifth = [link async for link in Chain(database).links()][4]
    assert await ledger.prune_audit("2026-01-01T00:00:00.000Z") == 0
    assert await ledger.prune_audit("2026-01-06T00:00:00.000Z") == 5
    assert (await whole(database)).head.first_seq == 6
    told = (await bodies(database))[-1]
    assert (told["kind"], told["first"], told["last"], told["last_hash"]) == ("pruned", 1, 5, fifth.hash.hex())
    assert (await verify(database, Anchor(5, fifth.hash), Anchor(3, bytes(32)))).problem == ""
    # Another process has the older head in mind, and goes on.
    await other.record(Kind.LOGIN, "user:ann", "10.0.0.1", {})
    await ledger.record(Kind.LOGIN, "user:ann", "10.0.0.1", {})
    assert (await whole(database)).events == 11 - 5 + 3
    assert await other.prune_audit("2027") == 9
    verdict = await whole(database)
    assert (verdict.events, verdict.head.first_seq, verdict.head.seq) == (1, 15, 15)
    await other.database.close()


async def test_it_verifies_while_others_write_and_prune(new_url: str, database: Database) -> None:
    ledger = store(Database(new_url), SIGNER)
    await ledger.prepare()
    writing = asyncio.create_task(_write_and_prune(ledger))
    verdicts = []
    while not writing.done():
        verdicts.append((await verify(database)).problem)
    await writing
    assert set(verdicts) == {""}
    await ledger.database.close()


async def _write_and_prune(ledger: LedgerStore) -> None:
    for _ in range(30):
        await asyncio.gather(*(ledger.record(Kind.LOGIN, "user:ann", "10.0.0.1", {}) for _ in range(20)))
        await ledger.prune_audit("2027")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    return path


def opened(folder: Path, make: Any = new_signing_key) -> AuditKeys:
    return AuditKeys.open(folder / "audit.key", Signer, make)


def ledger_of(database: Database, keys: AuditKeys) -> LedgerStore:
    return LedgerStore(
        database, Stamp(lambda: 0, lambda: "2026-01-02T03:04:05.678Z", new_id, keys, verify_signature), "F"
    )


async def change_key(database: Database, keys: AuditKeys) -> None:
    """What `audit rotate-key` does."""
    with keys.changing():
        successor = keys.successor(new_signing_key)
        await ledger_of(database, keys).rotate_key(successor, "cli:root")
        keys.current = successor
        keys.end_change()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_servers_of_the_folder_follow_another_key(new_url: str, database: Database, folder: Path) -> None:
    first, second = (ledger_of(Database(new_url), opened(folder)) for _ in range(2))
    old = first.stamp.keys.current
    await asyncio.gather(first.prepare(), second.prepare())
    for ledger in (first, second, first):
        await ledger.open(attempt())
    for _ in range(2):
        await change_key(database, opened(folder))
        for ledger in (first, second, first):
            await ledger.open(attempt())
    new = opened(folder).current
    for each in (old, new):
        verdict = await Chain(database).verify(Trust(each.public, verify_signature))
        assert (verdict.problem, verdict.events, verdict.rotations) == ("", 3 * 3 * 2 + 2, (7, 14))
    assert names(folder) == ["audit.key", "audit.pub"]
    assert (folder / "audit.pub").read_bytes() == new.public_pem != old.public_pem
    assert (folder / "audit.key").stat().st_mode & 0o777 == 0o600
    assert (await verify(database)).problem.startswith("the signature of the head is wrong"), "a key of no event"
    for ledger in (first, second):
        await ledger.database.close()


@pytest.mark.parametrize("moved", [False, True])
async def test_a_change_that_was_interrupted_is_the_old_or_the_new_state(
    database: Database, folder: Path, moved: bool
) -> None:
    keys = opened(folder)
    old, ledger = keys.current, ledger_of(database, keys)
    await ledger.prepare()
    await ledger.open(attempt())
    successor = keys.successor(new_signing_key)
    if moved:
        await ledger_of(database, opened(folder)).rotate_key(successor, "cli:root")
    assert names(folder) == ["audit.key", "audit.key.next", "audit.pub"]
    later = ledger_of(database, opened(folder))
    await later.prepare()
    await later.open(attempt())
    await ledger.open(attempt())
    signing = successor if moved else old
    assert opened(folder).current.public == signing.public
    assert (folder / "audit.pub").read_bytes() == signing.public_pem
    assert ("audit.key.next" in names(folder)) is not moved
    for each in (old, signing):
        assert (await Chain(database).verify(Trust(each.public, verify_signature))).problem == ""
    await change_key(database, opened(folder))
    assert names(folder) == ["audit.key", "audit.pub"]
    assert (opened(folder).current.public == successor.public) is not moved, "the key that lay ready is taken"


async def test_a_server_on_another_folder_writes_nothing_until_it_has_the_key(
    database: Database, folder: Path, tmp_path: Path
) -> None:
    keys = opened(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "staged").mkdir()
    for name in ("other", "staged"):
        shutil.copy(folder / "audit.key", tmp_path / name)
    other, staged = (ledger_of(database, opened(tmp_path / name)) for name in ("other", "staged"))
    await other.prepare()
    keys.successor(new_signing_key)
    shutil.copy(keys.beside, tmp_path / "staged")
    await change_key(database, keys)
    await staged.open(attempt())
    assert names(tmp_path / "staged") == ["audit.key", "audit.pub"], "what lay ready has its name"
    with pytest.raises(StorageError, match="not signed with this server's key"):
        await other.open(attempt())
    shutil.copy(folder / "audit.key", tmp_path / "other")
    await other.open(attempt())
    verdict = await Chain(database).verify(Trust(keys.current.public, verify_signature))
    assert (verdict.problem, verdict.events) == ("", 1 + 2 * 2)


async def test_the_older_key_signs_nothing_after_the_change(database: Database, folder: Path) -> None:
    keys = opened(folder)
    thief = store(database, Signer((folder / "audit.key").read_bytes()))
    await thief.prepare()
    await thief.open(attempt())
    before = await saved(database)
    old = keys.current
    await change_key(database, keys)
    with pytest.raises(StorageError, match="not signed with this server's key"):
        await thief.open(attempt("rm -rf /"))
    head = (await Chain(database).head()).head  # type: ignore[union-attr]
    await change(database, update(audit_head).values(signature=old.sign(head.statement())))
    for each in (old, keys.current):
        verdict = await Chain(database).verify(Trust(each.public, verify_signature))
        assert verdict.problem.startswith("the signature of the head is wrong")
    ours = ledger_of(database, opened(folder))
    for _ in range(2):
        with pytest.raises(StorageError, match="not signed with this server's key"):
            await ours.prepare()
        await cut_back(database, before)
    new = await Chain(database).verify(Trust(keys.current.public, verify_signature))
    assert new.problem.startswith("the signature of the head is wrong")


async def test_one_changes_the_key_at_a_time(folder: Path) -> None:
    one, two = opened(folder), opened(folder)
    with one.changing(), pytest.raises(KeyFileError, match="Another process changes the key"), two.changing():
        pass
    with two.changing():
        shutil.copy(one.path, one.beside)
        with pytest.raises(KeyFileError, match="in use"):
            one.successor(new_signing_key)


async def test_long_events_are_read_one_by_one_and_of_none_more_than_ours_can_have(
    database: Database, ledger: LedgerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (10, 9000, 10, 70_000, 70_000):
        await ledger.open(attempt("ä" * size))
    assert (await whole(database)).events == 10
    pages = [[len(link.body) > SHORT for link in page] async for page in Chain(database).pages()]
    assert sum(map(sum, pages)) == 3
    assert not any(long for page in pages for long in page[:-1])
    monkeypatch.setattr("backend.storage.audit_chain.LONGEST_BYTES", 50_000)
    assert (await verify(database)).problem == "event 7 was changed, or the one before it"
    assert max([len(link.body) async for link in Chain(database).links()]) <= 50_000


async def test_an_event_that_nobody_would_read_again_is_not_written(database: Database, ledger: LedgerStore) -> None:
    results = await asyncio.gather(
        ledger.open(attempt()), ledger.open(attempt("x" * LONGEST_BODY)), ledger.open(attempt()), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), StorageError, type(None)]
    assert (await whole(database)).events == 4


async def test_nothing_is_cut_off_that_somebody_made_old(database: Database) -> None:
    times = iter(f"2026-01-{day:02}T00:00:00.000Z" for day in range(1, 29))
    stamp = Stamp(lambda: 0, lambda: next(times), new_id, keys_of(SIGNER), verify_signature)
    ledger = LedgerStore(database, stamp, "F")
    await ledger.prepare()
    for _ in range(9):
        await ledger.record(Kind.LOGIN, "user:ann", "10.0.0.1", {})
    older = func.replace(func.replace(EVENT.body, "2026-01-05", "2025-01-05"), "2026-01-04", "2025-01-04")
    for statement in (at(5).values(body=older), at(4).values(body=older), at(2).values(body="{}")):
        await change(database, statement)
        with pytest.raises(StorageError, match=r"not as it was written: event \d was changed"):
            await ledger.prune_audit("2026-01-04T00:00:00.000Z")
        assert (await verify(database)).problem, "what was changed is there to be found"


async def test_a_chain_that_another_server_built_on_after_it_was_cut_back_is_not_built_on(
    new_url: str, database: Database, ledger: LedgerStore
) -> None:
    other = store(Database(new_url), SIGNER)
    await other.prepare()
    await other.open(attempt())
    older = await saved(database)
    for _ in range(2):
        await ledger.open(attempt())
    await cut_back(database, older)
    for _ in range(3):
        await other.open(attempt())
    await whole(database)
    with pytest.raises(StorageError, match="event 6 is not the one that was there"):
        await ledger.open(attempt())
    await other.open(attempt())
    await other.database.close()


async def test_a_head_that_is_held_fast_lets_nothing_run(tmp_path: Path) -> None:
    database = Database(database_url(None, tmp_path))
    await database.migrate()
    keys = opened(tmp_path)
    ledger = ledger_of(database, keys)
    await ledger.prepare()
    await ledger.open(attempt())
    trigger = "create trigger held before update on audit_head begin select raise(ignore); end"
    await change(database, text(trigger))
    for each in (ledger, ledger_of(database, keys)):
        with pytest.raises(StorageError, match="does not move"):
            await each.open(attempt())
        with pytest.raises(StorageError, match="does not move"):
            await each.prune_audit("2027")
    with pytest.raises(StorageError, match="does not move"):
        await change_key(database, opened(tmp_path))
    assert (tmp_path / "audit.pub").read_bytes() == keys.current.public_pem
    await change(database, text("drop trigger held"))
    await ledger.open(attempt())
    verdict = await Chain(database).verify(Trust(keys.current.public, verify_signature))
    assert (verdict.problem, verdict.events) == ("", 4)
    await database.close()
