"""Executions in the database: rows, events, floods of refusals, age."""

import asyncio

import pytest

from backend.accounts.signatures import verify_signature
from backend.core.audit.attempts import Completion
from backend.core.audit.suppression import RefusalSuppressor
from backend.core.execution.model import Status, Usage
from backend.core.identity import Principal, Role, User
from backend.core.times import HOUR_MS
from backend.storage.audit_head import LedgerContext
from backend.storage.database import Database
from backend.storage.execution_figures import HourlyFigures
from backend.storage.execution_history import SqlExecutionHistory
from tests.ids import numbered_id
from tests.storage.chains import SIGNER, bodies, whole
from tests.storage.writing import ENDED, Ledger, attempt, keys_of, ledger_with, new_id, refusal, store


async def test_a_command_is_a_row_and_events(database: Database, ledger: Ledger) -> None:
    one = attempt("echo 'ä\n\"seq\":7,'")
    await ledger.executions.open(one)
    history = SqlExecutionHistory(database)
    found = await history.get(one.id)
    assert found
    assert (found.status, found.command, found.principal) == (Status.RUNNING, one.command, "user:ann")
    await ledger.executions.close(
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


async def test_a_dry_run_never_started_and_a_refusal_is_an_end(database: Database, ledger: Ledger) -> None:
    dry, denied, limited = attempt(dry_run=True), attempt(decision=refusal()), attempt(decision=refusal("limits.rate"))
    await ledger.executions.open(dry)
    await ledger.executions.refuse(denied)
    await ledger.executions.refuse(limited)
    assert [event["kind"] for event in await bodies(database)] == ["submitted", "denied", "rate_limited"]
    for each in (denied, limited):
        record = await SqlExecutionHistory(database).get(each.id)
        assert record
        assert record.status is Status.DENIED


@pytest.mark.parametrize("command", ["a\0b", "a\ud800b", "a\x1b[0m\u2028\U0001f600b"])
async def test_no_text_keeps_an_attempt_out_of_the_audit(database: Database, ledger: Ledger, command: str) -> None:
    one = attempt(command, refusal(), working_dir=command)
    await ledger.executions.refuse(one)
    assert (await bodies(database))[0]["command"] == command
    assert await SqlExecutionHistory(database).get(one.id)
    await whole(database)


async def test_a_flood_is_written_at_its_beginning_and_counted(database: Database) -> None:
    now = 1_700_000_000_000
    stamp = LedgerContext(lambda: now, lambda: "2026-01-02T03:04:05.678Z", new_id, keys_of(SIGNER), verify_signature)
    ledger = ledger_with(database, stamp, floods=RefusalSuppressor(most=3))
    await ledger.audit.prepare()
    limited = [
        attempt(decision=refusal("limits.rate"), principal=Principal(f"visitor:{n}", "10.0.0.1")) for n in range(50)
    ]
    for each in limited:
        await ledger.executions.refuse(each)
    await ledger.executions.refuse(
        attempt(decision=refusal("limits.rate"), principal=Principal("visitor:a", "10.0.0.2"))
    )
    for _ in range(5):
        await ledger.executions.refuse(attempt("rm x", decision=refusal("blocked.rm")))
    events = await bodies(database)
    assert [event["kind"] for event in events] == ["rate_limited"] * 4 + ["denied"] * 5
    assert await SqlExecutionHistory(database).get(limited[2].id)
    assert await SqlExecutionHistory(database).get(limited[3].id) is None
    now += 60_000
    await ledger.executions.refuse(limited[4])
    told = [event for event in await bodies(database) if "suppressed" in event]
    await ledger.finish()
    assert [(each["suppressed"], each["address"], each["rule"], each["since"]) for each in told] == [
        (47, "10.0.0.1", "limits.rate", "2023-11-14T22:13:20.000Z")
    ]
    await whole(database)


@pytest.mark.parametrize("close", [True, False])
async def test_a_flood_is_told_at_its_end_though_nobody_comes_any_more(database: Database, close: bool) -> None:
    ledger = store(database, SIGNER, floods=RefusalSuppressor(most=1, window=60_000 if close else 100))
    await ledger.audit.prepare()
    for _ in range(3):
        await ledger.executions.refuse(attempt(decision=refusal("role.forbidden")))
    if close:
        await ledger.finish()
    async with asyncio.timeout(60):
        while not [event for event in await bodies(database) if "suppressed" in event]:
            await asyncio.sleep(0.02)
    assert (await bodies(database))[-1]["kind"] == "denied"


async def test_figures_of_old_executions_go_with_them(database: Database, ledger: Ledger) -> None:
    user = User(numbered_id(1, 1), "ann", Role.OPERATOR, "agent", False, 0, 0)
    old = attempt(id=numbered_id(HOUR_MS, 1), principal=Principal("user:ann", "10.0.0.1", user=user))
    await ledger.executions.open(old)
    await ledger.executions.close(old, ENDED)
    await HourlyFigures(database).summarise(9 * HOUR_MS)
    history = SqlExecutionHistory(database)
    assert (await history.stats(user.id, 0)).total == 1
    await ledger.executions.prune(1 << 50)
    assert (await history.stats(user.id, 0)).total == 0


async def test_old_executions_go_and_the_running_stay(database: Database, ledger: Ledger) -> None:
    ended, running = attempt(), attempt()
    for each in (ended, running):
        await ledger.executions.open(each)
    await ledger.executions.close(ended, ENDED)
    assert await ledger.executions.prune(0) == 0
    assert await ledger.executions.prune(1 << 50) == 1
    history = SqlExecutionHistory(database)
    assert await history.get(ended.id) is None
    assert await history.get(running.id)
    assert (await bodies(database))[-1] | {"kind": "pruned", "executions": 1} == (await bodies(database))[-1]
    await whole(database)
