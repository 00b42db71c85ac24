"""What runners are answered when something is wrong, and Django projects as targets of schedules."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from backend.application.schedule_runner import ScheduleRunner
from backend.core.errors import StorageError
from backend.core.schedules.model import Schedule, What, When
from backend.core.schedules.ports import RunPage
from backend.storage.memory.schedules import MemorySchedules
from backend.transports.page_files import PageFiles
from backend.transports.pages import add_page_files
from tests.recipes.house import ANN
from tests.runners.shop import Shop, open_shop

HEARTBEAT = {"runner_version": "1", "python_version": "3.12", "django_version": "5.2", "commands_hash": ""}


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with open_shop() as opened:
        yield opened


async def test_a_database_that_is_away_is_answered_with_json_and_nothing_is_lost(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await shop.waiting()
    nonce = {"X_Request_Nonce": "6f0f3c1e-0000-4000-8000-000000000009"}

    async def fail(*_: object, **__: object) -> bool:
        raise StorageError("The database is unavailable.")

    with monkeypatch.context() as patch:
        patch.setattr(type(shop.store), "begin", fail)
        answer = await shop.start(id, **nonce)
    assert (answer.status_code, answer.json()["rule"]) == (503, "storage.unavailable")
    assert (await shop.start(id, **nonce)).status_code == 200
    await shop.complete(id)


async def test_a_bug_is_answered_with_json_that_does_not_repeat_it(tmp_path: Path) -> None:
    app = FastAPI()
    add_page_files(app, PageFiles(tmp_path))

    @app.get("/api/runner/pending/")
    async def pending() -> None:
        raise KeyError("a bug")

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        answer = await client.get("/api/runner/pending/")
    assert (answer.status_code, answer.json()["rule"]) == (500, "server.failed")
    assert "a bug" not in answer.text


async def test_a_key_that_was_rotated_is_valid_for_as_long_as_it_was_said(shop: Shop) -> None:
    await shop.store.end_key(shop.key.id, shop.clock.ms() + 60_000)
    assert await shop.pending() == []
    shop.clock.now += 61
    refused = await shop.say("GET", "pending/")
    assert (refused.status_code, refused.json()["rule"]) == (401, "auth.wrong")
    assert shop.events("rejected")[-1]["rule"] == "auth.wrong"


async def test_what_is_too_large_is_recorded(shop: Shop) -> None:
    sync = {"commands": [{"name": "migrate", "app_label": "x", "help_text": "h" * 6_000_000}]}
    assert (await shop.say("POST", "commands/sync/", sync)).status_code == 413
    assert shop.events("rejected")[-1]["rule"] == "limits.body"
    assert (await shop.say("POST", "heartbeat/", HEARTBEAT)).json()["commands_in_sync"] is True  # as before: none


async def test_a_schedule_waits_for_a_runner_and_ends_as_its_command_does(shop: Shop) -> None:
    assert ANN.user
    store = MemorySchedules(shop.common.executions)
    what, due = What("clearsessions", "django:shop"), shop.clock.ms()
    schedule = Schedule("5" * 26, ANN.user.id, "nightly", what, When("30 2 * * *"), 0, due)
    await store.add(schedule, 9)
    runner = ScheduleRunner(
        store, shop.house.service, shop.house.users, lambda: None, shop.clock.ms, lambda: 0, lambda *_: None
    )
    for _ in range(2):
        await runner.run_once()
    [offer] = await shop.pending()
    [run] = await store.runs(RunPage(schedule.id))
    assert (offer["command"], run.status) == ("clearsessions", "running")
    assert run.execution
    await shop.start(run.execution)
    await shop.output(run.execution, 1, "gone\n")
    await shop.complete(run.execution, 0)
    assert (await shop.ended(run.execution)).schedule_id == schedule.id
    await runner.run_once()
    [run] = await store.runs(RunPage(schedule.id))
    assert run.status == "succeeded"
    assert await shop.recorded(run.execution or "") == ["gone"]
