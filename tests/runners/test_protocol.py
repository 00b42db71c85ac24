"""The protocol of runners, request by request, over HTTP: what is answered, however often and in which order it is said."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from backend.accounts.credentials import secret_hash
from backend.application import runners
from backend.application.host_targets import HostTargets
from backend.core.decisions import Decision
from backend.core.execution.model import Delivery, Signal, SignalName, Status, Stop, StopReason
from backend.core.execution.requests import Refused
from backend.core.execution.targets import OWN, addressed
from backend.core.execution.wakeups import Wakeups
from backend.core.hosts.registry import HostEntry
from backend.core.hosts.roster import Grant
from backend.core.identity import Principal
from backend.core.ids import as_uuid
from tests.client import BOUND
from tests.recipes.house import ANN, BOB, load_profile
from tests.runners.shop import QUICK, SECRET, Shop, open_shop

HEARTBEAT = {"runner_version": "0.1.0", "python_version": "3.12", "django_version": "5.2", "commands_hash": ""}


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with open_shop() as opened:
        yield opened


async def test_an_execution_from_its_queue_to_its_end(shop: Shop) -> None:
    id = await shop.waiting("migrate --plan 'a b'", timeout=7)
    [offer] = await shop.pending()
    assert offer == {
        "id": as_uuid(id),
        "command": "migrate",
        "args": "--plan 'a b'",
        "timeout": 7,
        "use_metadata_only_mode": False,
    }
    assert (await shop.start(id)).status_code == 200
    assert await shop.pending() == []
    assert await shop.stop_level(id) == (False, False)
    for number, text, stderr in ((1, "one\ntw", False), (2, "oops\n", True), (3, "o\n", False)):
        assert (await shop.output(id, number, text, stderr=stderr)).status_code == 200
    assert (await shop.complete(id, 3, "failed")).status_code == 200
    record = await shop.ended(id)
    assert (record.status, record.exit_code, record.target) == (Status.FAILED, 3, f"django:{shop.project}")
    messages = await shop.messages(id)
    assert "".join(line for each in messages if each["type"] == "stdout" for line in each["lines"]) == "onetwo"
    assert [each["lines"] for each in messages if each["type"] == "stderr"] == [["oops"]]


ENDS: list[tuple[int, str, tuple[Status, int, str | None]]] = [
    (0, "success", (Status.SUCCEEDED, 0, None)),
    (1, "failed", (Status.FAILED, 1, None)),
    (-9, "failed", (Status.FAILED, 137, "SIGKILL")),
    (-1, "failed", (Status.FAILED, 125, None)),
    (-1, "timed_out", (Status.TIMED_OUT, 124, None)),
    (-15, "cancelled", (Status.CANCELLED, 143, "SIGTERM")),
    (-(2**31), "failed", (Status.FAILED, 255, None)),
]


async def test_ends_are_stored_by_the_conventions_of_shells(shop: Shop) -> None:
    for code, status, recorded in ENDS:
        id = await shop.waiting()
        await shop.start(id)
        await shop.complete(id, code, status)
        record = await shop.ended(id)
        assert (record.status, record.exit_code, record.signal) == recorded


async def test_of_many_starts_one_claims(shop: Shop) -> None:
    id = await shop.waiting()
    answers = await asyncio.gather(*(shop.start(id) for _ in range(8)))
    assert sorted(each.status_code for each in answers) == [200] + [409] * 7
    refused = next(each.json() for each in answers if each.status_code == 409)
    assert (refused["rule"], refused["detail"].startswith("The execution")) == ("runner.claimed", True)
    await shop.complete(id)


async def test_a_start_that_is_sent_again_is_the_same_start(shop: Shop) -> None:
    id = await shop.waiting()
    nonce = "6f0f3c1e-0000-4000-8000-000000000001"
    answers = await asyncio.gather(*(shop.start(id, X_Request_Nonce=nonce) for _ in range(4)))
    assert [each.status_code for each in answers] == [200] * 4
    shop.store._answers.clear()  # a server that died before it stored its answer
    assert (await shop.start(id, X_Request_Nonce=nonce)).status_code == 200
    assert (await shop.start(id)).status_code == 409
    assert len(shop.events("started")) == 1
    await shop.complete(id)


async def test_a_nonce_stands_for_one_request(shop: Shop) -> None:
    nonce = {"X_Request_Nonce": "6f0f3c1e-0000-4000-8000-000000000002"}
    first = await shop.say("POST", "heartbeat/", HEARTBEAT, **nonce)
    await shop.waiting()
    again = await shop.say("POST", "heartbeat/", HEARTBEAT, **nonce)
    assert first.json() == again.json()
    assert again.json()["pending_executions"] == 0
    for method, path, body in (
        ("POST", "heartbeat/", HEARTBEAT | {"commands_hash": "x"}),
        ("POST", "commands/sync/", {"commands": []}),
        ("GET", "pending/", None),
    ):
        refused = await shop.say(method, path, body, **nonce)
        assert (refused.status_code, refused.json()["rule"]) == (409, "runner.nonce")
    assert shop.events("rejected")[-1]["rule"] == "runner.nonce"
    assert shop.events("rejected")[-1]["actor"] == "runner:production"
    polled = {"X_Request_Nonce": "6f0f3c1e-0000-4000-8000-000000000003"}
    assert (await shop.say("GET", "pending/", **polled)).json() == (await shop.say("GET", "pending/", **polled)).json()


async def test_polls_that_find_nothing_ask_the_queue_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []
    queue = type(shop.house.runner.queue)
    queued = queue.queued

    async def counted(self: Any, targets: Any, limit: int) -> Any:
        looks.append(targets)
        return await queued(self, targets, limit)

    monkeypatch.setattr(queue, "queued", counted)
    assert [await shop.pending() for _ in range(5)] == [[]] * 5
    assert (await shop.say("POST", "heartbeat/", HEARTBEAT)).json()["pending_executions"] == 0
    assert len(looks) == 1
    id = await shop.waiting()
    assert [each["id"] for each in await shop.pending()] == [as_uuid(id)]
    assert (await shop.say("POST", "heartbeat/", HEARTBEAT)).json()["pending_executions"] == 1


async def test_a_queue_that_another_server_fills_is_looked_at_again() -> None:
    async with open_shop(recheck=0.05) as shop, asyncio.timeout(BOUND):
        shop.house.gateway.lifecycle.enqueued = lambda target: None  # as if another one had queued it
        assert await shop.pending() == []
        id = await shop.waiting()
        while not (found := await shop.pending()):
            await asyncio.sleep(0.01)
        assert [each["id"] for each in found] == [as_uuid(id)]


def test_what_is_queued_during_a_look_is_not_forgotten() -> None:
    wakeups = Wakeups()
    before = wakeups.known_empty("a")
    wakeups.wake("a")
    before.found_nothing(10)
    assert wakeups.known_empty("a").until == before.until == 0
    wakeups.known_empty("a").found_nothing(10)
    assert wakeups.known_empty("a").until == 10
    wakeups.wake_all()
    assert wakeups.known_empty("a").until == 0


async def test_errors_that_pass_are_not_remembered(shop: Shop) -> None:
    id = await shop.waiting()
    nonce = "6f0f3c1e-0000-4000-8000-000000000004"
    shop.house.gateway.closing = True
    refused = await shop.start(id, X_Request_Nonce=nonce)
    assert refused.status_code == 503
    assert refused.json()["rule"] == "server.stopping"
    shop.house.gateway.closing = False
    assert len(await shop.pending()) == 1
    assert (await shop.start(id, X_Request_Nonce=nonce)).status_code == 200
    await shop.complete(id)


async def test_chunks_may_arrive_twice_and_in_any_order() -> None:
    async with open_shop(replace(QUICK, gap=BOUND)) as shop:
        id = await shop.waiting()
        await shop.start(id)
        for number in (3, 2, 2, 1, 3):
            assert (await shop.output(id, number, f"{number}\n")).status_code == 200
        assert (await shop.output(id, 2, "other text\n")).status_code == 200
        await shop.complete(id)
        assert await shop.recorded(id) == ["1", "2", "3"]


async def test_a_gap_is_shown_and_what_comes_late_is_not_lost(shop: Shop) -> None:
    id = await shop.waiting()
    await shop.start(id)
    await shop.output(id, 1, "1\n")
    await shop.output(id, 4, "4\n")
    seen = await _until(shop, id, "4")
    assert seen == ["1", "! [Output is missing here: chunks 2 to 3 have not arrived.]", "4"]
    await shop.output(id, 3, "3\n")
    await shop.complete(id)
    assert await shop.recorded(id) == [*seen, "[This output arrived late: chunk 3.]", "3"]


async def _until(shop: Shop, id: str, line: str) -> list[str]:
    """The lines of a command that runs, up to one of them."""
    found: list[str] = []

    async def send(block: bytes) -> None:
        for each in map(json.loads, block.splitlines()):
            mark = "! " if each["type"] == "stderr" else ""
            found.extend(f"{mark}{text}" for text in each.get("lines", ()))

    following = asyncio.ensure_future(shop.house.service.follow(ANN, id, 0, send))
    async with asyncio.timeout(60):
        while line not in found:
            await asyncio.sleep(0.01)
    following.cancel()
    return found


async def test_chunks_that_follow_the_end_belong_to_it_for_a_while_and_then_to_the_audit() -> None:
    async with open_shop(replace(QUICK, gap=BOUND)) as shop:
        id = await shop.waiting()
        await shop.start(id)
        await shop.output(id, 2, "2\n")
        await shop.complete(id)  # chunk 1 is still on its way
        await shop.output(id, 1, "1\n")
        assert await shop.recorded(id) == ["1", "2"]
        for number in (3, 4):
            assert (await shop.output(id, number, "too late\n")).status_code == 200
        [event] = shop.events("answered_late")
        assert (event["execution"], event["output"]) == (id, "too late\n")


async def test_what_is_reported_late_is_recorded_once_for_so_many_executions(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "MOST_REPORTED", 1)
    ids = [await shop.waiting() for _ in range(2)]
    for id in ids:
        await shop.start(id)
        await shop.complete(id)
        await shop.ended(id)
    for number, id in enumerate([ids[0], ids[0], ids[1], ids[0]], 1):
        await shop.output(id, number, "too late\n")
    assert [event["execution"] for event in shop.events("answered_late")] == [ids[0], ids[1], ids[0]]
    assert len(shop.runners.reported) == 1


async def test_the_first_end_stays(shop: Shop) -> None:
    id = await shop.waiting()
    await shop.start(id)
    for code, status in ((0, "success"), (1, "failed"), (0, "success")):
        assert (await shop.complete(id, code, status)).status_code == 200
    assert (await shop.ended(id)).status is Status.SUCCEEDED
    assert (await shop.complete(id, 1, "failed")).status_code == 200
    assert (await shop.ended(id)).status is Status.SUCCEEDED


async def test_a_cancelled_command_is_asked_to_end_then_killed_and_its_end_recorded() -> None:
    async with open_shop(replace(QUICK, stop=BOUND)) as shop:
        id = await shop.waiting()
        await shop.start(id)
        assert await shop.house.service.instruct(ANN, id, Stop(StopReason.CANCELLED, ANN.name)) is Delivery.DELIVERED
        async with asyncio.timeout(60):
            while await shop.stop_level(id) != (True, False):
                await asyncio.sleep(0.01)
            while await shop.stop_level(id) != (True, True):
                await asyncio.sleep(0.01)
        await shop.complete(id, -9, "cancelled")
        record = await shop.ended(id)
        assert (record.status, record.exit_code) == (Status.CANCELLED, 137)


async def test_a_signal_is_a_stop_or_a_kill_and_no_other(shop: Shop) -> None:
    id = await shop.waiting()
    await shop.start(id)
    assert await shop.house.service.instruct(ANN, id, Signal(SignalName.USR1)) is Delivery.NOT_RUNNING
    assert await shop.house.service.instruct(ANN, id, Signal(SignalName.KILL)) is Delivery.DELIVERED
    async with asyncio.timeout(60):
        while await shop.stop_level(id) != (True, True):
            await asyncio.sleep(0.01)
    await shop.complete(id, -9, "failed")
    assert (await shop.ended(id)).signal == "SIGKILL"


async def test_a_stop_that_no_runner_confirms_is_given_up(shop: Shop) -> None:
    id = await shop.waiting()
    await shop.start(id)
    await shop.house.service.instruct(ANN, id, Stop(StopReason.CANCELLED, ANN.name))
    assert (await shop.ended(id)).status is Status.CANCELLED
    assert await shop.recorded(id) == ["! The runner did not confirm the stop: the command may still run."]
    assert await shop.stop_level(id) == (True, True)  # if it is still there
    await shop.complete(id, 0)
    assert shop.events("answered_late")[0]["end"] == "success"


async def test_a_runner_that_stalls_loses_its_execution_once_its_time_is_over(shop: Shop) -> None:
    id = await shop.waiting(timeout=0.1)
    await shop.start(id)
    await shop.output(id, 1, "begun\n")
    shop.clock.now += 2
    record = await shop.ended(id)
    assert (record.status, record.exit_code) == (Status.LOST, None)
    problem = next(each for each in await shop.messages(id) if each["type"] == "error")
    assert problem["rule"] == "runner.lost"
    assert (await shop.complete(id, 0)).status_code == 200
    assert (await shop.ended(id)).status is Status.LOST


async def test_a_runner_that_calls_is_not_lost_but_has_timed_out(shop: Shop) -> None:
    id = await shop.waiting(timeout=0.1)
    await shop.start(id)

    async def ask() -> None:
        while True:
            shop.clock.now += 0.05
            await shop.stop_level(id)
            await asyncio.sleep(0.02)

    asking = asyncio.ensure_future(ask())
    record = await shop.ended(id)
    asking.cancel()
    assert (record.status, record.exit_code) == (Status.TIMED_OUT, 124)


async def test_output_over_the_limit_stops_the_command_and_is_no_longer_stored(shop: Shop) -> None:
    id = await shop.waiting()
    await shop.start(id)
    await shop.output(id, 1, "x" * 9_000 + "\n")
    await shop.output(id, 2, "y" * 2_000 + "\n")
    async with asyncio.timeout(60):
        while await shop.stop_level(id) == (False, False):
            await asyncio.sleep(0.01)
    await shop.output(id, 3, "z\n")
    assert [each.text for each in await shop.store.chunks(id, 3, (), 9)] == [""]
    await shop.complete(id, -15, "cancelled")
    messages = await shop.messages(id)
    assert [each["type"] for each in messages][-2:] == ["truncated", "complete"]
    assert (await shop.ended(id)).status is Status.FAILED


async def test_with_metadata_only_no_output_is_stored(shop: Shop) -> None:
    id = await shop.waiting(metadata_only=True)
    assert (await shop.pending())[0]["use_metadata_only_mode"] is True
    await shop.start(id)
    await shop.output(id, 1, "a secret\n")
    assert [each.text for each in await shop.store.chunks(id, 1, (), 9)] == [""]
    await shop.complete(id)
    assert await shop.recorded(id) == []


async def test_commands_are_synced_when_their_hash_differs(shop: Shop) -> None:
    first = (await shop.say("POST", "heartbeat/", HEARTBEAT | {"commands_hash": "sha256:x"})).json()
    assert first == {
        "ok": True,
        "runner_state": "active",
        "suspension_reason": None,
        "commands_in_sync": False,
        "pending_executions": 0,
    }
    commands = [{"name": name, "app_label": "django.core", "help_text": "usage: ü"} for name in ("migrate", "check")]
    synced = (await shop.say("POST", "commands/sync/", {"commands": commands})).json()
    assert synced["synced_count"] == 2
    again = (await shop.say("POST", "heartbeat/", HEARTBEAT | {"commands_hash": synced["commands_hash"]})).json()
    assert again["commands_in_sync"] is True
    refused = await shop.submit("clearsessions")
    assert isinstance(refused, Refused)
    assert refused.decision.reason == "clearsessions is blocked: no runner of this project offers it."
    found = await shop.store.key(shop.key.id)
    assert found
    assert found.versions.django == "5.2"


async def test_a_sync_of_five_megabytes_is_accepted_and_one_of_six_refused(shop: Shop) -> None:
    def of(size: int) -> dict[str, object]:
        return {"commands": [{"name": "migrate", "app_label": "x", "help_text": "h" * size}]}

    assert (await shop.say("POST", "commands/sync/", of(5_000_000))).status_code == 200
    refused = await shop.say("POST", "commands/sync/", of(6_000_000))
    assert (refused.status_code, refused.json()["rule"]) == (413, "limits.body")
    offered = await shop.store.commands(shop.project)
    assert offered
    assert len(offered.commands[0].help_text) == 5_000_000


async def test_a_suspended_runner_gets_nothing_until_it_is_resumed(shop: Shop) -> None:
    id = await shop.waiting()
    await shop.store.suspend(shop.key.id, "maintenance")
    state = (await shop.say("POST", "heartbeat/", HEARTBEAT)).json()
    assert (state["runner_state"], state["suspension_reason"]) == ("suspended", "maintenance")
    assert await shop.pending() == []
    refused = await shop.start(id)
    assert (refused.status_code, refused.json()["rule"]) == (409, "runner.suspended")
    await shop.store.suspend(shop.key.id, None)
    assert len(await shop.pending()) == 1


async def test_a_runner_that_waits_gets_an_execution_at_once(shop: Shop) -> None:
    waiting = asyncio.ensure_future(shop.pending("?wait=20"))
    async with asyncio.timeout(60):
        while not shop.runners.wakeups._waiting:
            await asyncio.sleep(0)
        id = await shop.waiting()
        assert [each["id"] for each in await waiting] == [as_uuid(id)]
    assert await shop.pending("?wait=0.01") == [(await shop.pending())[0]]
    assert (await shop.say("GET", "pending/?wait=99")).status_code == 422


async def test_a_runner_that_waits_is_answered_when_the_server_stops(shop: Shop) -> None:
    waiting = asyncio.ensure_future(shop.pending("?wait=20"))
    async with asyncio.timeout(60):
        while not shop.runners.wakeups._waiting:
            await asyncio.sleep(0)
        shop.runners.close()
        assert await waiting == []
        assert await shop.pending("?wait=20") == []


BAD_HEADERS: list[tuple[dict[str, str], int, str]] = [
    ({"Authorization": "Bearer dc_wrong"}, 401, "auth.wrong"),
    ({"Authorization": ""}, 401, "auth.wrong"),
    ({"Authorization": "Bearer gp_" + "x" * 43}, 401, "auth.wrong"),
    ({"X_Request_Timestamp": "0"}, 400, "runner.clock"),
    ({"X_Request_Timestamp": "soon"}, 400, "runner.clock"),
    ({"X_Request_Nonce": ""}, 400, "runner.nonce"),
    ({"X_Request_Nonce": "x" * 65}, 400, "runner.nonce"),
]


async def test_a_bad_header_is_refused_and_audited(shop: Shop) -> None:
    for headers, status, rule in BAD_HEADERS:
        refused = await shop.say("POST", "heartbeat/", HEARTBEAT, **headers)
        assert (refused.status_code, refused.json()["rule"]) == (status, rule)
        assert refused.json()["detail"]
        assert shop.events("rejected")[-1]["rule"] == rule


async def test_clocks_that_differ_by_ten_minutes_are_named(shop: Shop) -> None:
    for minutes, words in ((-10, "behind"), (10, "ahead of")):
        time = str(int(shop.clock.now) + minutes * 60)
        refused = (await shop.say("POST", "heartbeat/", HEARTBEAT, X_Request_Timestamp=time)).json()
        assert f"10 min {words} that of the server" in refused["detail"]


async def test_a_revoked_key_ends_at_once_and_guesses_are_limited(shop: Shop) -> None:
    await shop.store.end_key(shop.key.id, shop.clock.ms())
    refused = await shop.say("GET", "pending/")
    assert refused.status_code == 401
    assert "revoked" in refused.json()["detail"]
    answers = [await shop.say("GET", "pending/") for _ in range(6)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0


async def test_a_rotated_key_can_finish_what_the_old_one_began(shop: Shop) -> None:
    id = await shop.waiting()
    await shop.start(id)
    new = "dc_" + "n" * 43
    await shop.store.add_key(shop.project, "production", secret_hash(new))
    answer = await shop.say(
        "POST",
        f"executions/{as_uuid(id)}/complete/",
        {"exit_code": 0, "status": "success"},
        Authorization=f"Bearer {new}",
    )
    assert answer.status_code == 200
    assert (await shop.ended(id)).status is Status.SUCCEEDED


async def test_a_key_of_another_project_reaches_nothing(shop: Shop) -> None:
    assert ANN.user
    other = await shop.common.projects.add("other", ANN.user.id)
    secret = "dc_" + "o" * 43
    await shop.store.add_key(other.id, "production", secret_hash(secret))
    waiting, running = await shop.waiting(), await shop.waiting()
    await shop.start(running)
    bearer = {"Authorization": f"Bearer {secret}"}
    assert (await shop.say("GET", "pending/", **bearer)).json() == {"executions": []}
    assert (await shop.start(waiting, **bearer)).status_code == 404
    end = {"exit_code": 0, "status": "success"}
    for path, body in (("complete/", end), ("output/", {"chunk_number": 1, "segments": []})):
        assert (await shop.say("POST", f"executions/{as_uuid(running)}/{path}", body, **bearer)).status_code == 404
    assert (await shop.say("GET", f"executions/{as_uuid(running)}/cancel-status/", **bearer)).status_code == 404
    await shop.complete(running)
    assert (await shop.ended(running)).status is Status.SUCCEEDED


REQUESTS: list[tuple[str, str, object, int]] = [
    ("GET", "", None, 404),
    ("GET", "nothing/", None, 404),
    ("GET", "heartbeat/", None, 405),
    ("HEAD", "pending/", None, 405),
    ("DELETE", "executions/x/start/", None, 405),
    ("POST", "heartbeat", HEARTBEAT, 200),
    ("GET", "pending", None, 200),
    ("POST", "heartbeat/", [], 422),
    ("POST", "heartbeat/", {"runner_version": "x" * 200}, 422),
    ("POST", "executions/..%2f..%2fx/start/", None, 404),
    ("POST", "executions/not-a-uuid/start/", None, 404),
    ("POST", f"executions/{'f' * 8}-ffff-ffff-ffff-{'f' * 12}/start/", None, 404),
    ("POST", f"executions/{as_uuid('0' * 26)}/output/", {"chunk_number": 0, "segments": []}, 422),
    ("POST", f"executions/{as_uuid('0' * 26)}/output/", {"chunk_number": 1, "segments": []}, 404),
    ("POST", f"executions/{as_uuid('0' * 26)}/complete/", {"exit_code": 0, "status": "great"}, 422),
    ("GET", f"executions/{as_uuid('0' * 26)}/cancel-status/", None, 404),
]


async def test_every_answer_is_a_json_object(shop: Shop) -> None:
    for method, path, body, status in REQUESTS:
        answer = await shop.say(method, path, body)
        assert answer.status_code == status, answer.text
        assert "json" in answer.headers["content-type"]


async def test_what_is_no_id_is_named(shop: Shop) -> None:
    answer = await shop.say("GET", "executions/01ARZ/cancel-status/")
    assert (answer.status_code, answer.json()["rule"]) == (404, "execution.unknown")
    assert answer.json()["detail"] == "'01ARZ' is not the id of an execution."
    assert "UUID" in answer.json()["hint"]


async def test_a_body_that_is_no_json_is_refused_with_json(shop: Shop) -> None:
    headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}
    answer = await shop.client.post("/api/runner/heartbeat/", content=b"<html>", headers=headers)
    assert answer.status_code == 422
    assert answer.json()["rule"] == "request.invalid"


LINES = [
    ("migrate 'a", "syntax.quote"),
    ("migrate --settings=evil", "django.settings"),
    ("migrate --se evil", "django.settings"),
    ("check --pythonpath /tmp", "django.pythonpath"),
    ("dumpdata --output=/etc/cron.d/x", "path.outside"),
    ("dumpdata -o/etc/cron.d/x", "path.outside"),
    ("dumpdata -o../x", "path.outside"),
    ("flush --noinput", "blocked.flush"),
    ("frobnicate", "program.unlisted"),
    ("migrate; check", "syntax.operator"),
    ("migrate $(id)", "syntax.expansion"),
]


async def test_lines_are_judged_before_they_wait(shop: Shop) -> None:
    for line, rule in LINES:
        refused = await shop.submit(line)
        assert isinstance(refused, Refused)
        assert refused.decision.rule == rule
        assert await shop.pending() == []


async def test_a_project_may_have_commands_of_its_own(shop: Shop) -> None:
    await shop.common.projects.change(shop.project, allowed_extra=("greet", "flush"))
    id = await shop.waiting("greet --name 'Ann B'")
    assert (await shop.pending())[0]["args"] == "--name 'Ann B'"
    for line, rule in (("greet --settings x", "django.settings"), ("flush", "blocked.flush")):
        refused = await shop.submit(line)
        assert isinstance(refused, Refused)
        assert refused.decision.rule == rule
    await shop.start(id)
    await shop.complete(id)


async def test_a_project_exists_for_its_members(shop: Shop) -> None:
    refused = await shop.submit("migrate", BOB)
    assert isinstance(refused, Refused)
    assert refused.decision.rule == "target.unknown"
    assert BOB.user
    await shop.common.projects.change(shop.project, members=frozenset({BOB.user.id}))
    assert not isinstance(await shop.submit("migrate", BOB), Refused)
    await shop.store.end_key(shop.key.id, 0)
    gone = await shop.submit("migrate")
    assert isinstance(gone, Refused)
    assert "has no runner" in gone.decision.reason


async def test_a_cancelled_execution_is_not_offered_and_not_started(shop: Shop) -> None:
    id = await shop.waiting()
    assert await shop.house.service.instruct(ANN, id, Stop(StopReason.CANCELLED, ANN.name)) is Delivery.DELIVERED
    assert await shop.pending() == []
    assert (await shop.start(id)).status_code == 409


async def test_an_account_that_may_no_longer_run_it_does_not(shop: Shop) -> None:
    id = await shop.waiting()
    assert ANN.user
    await shop.common.identities.set_disabled(ANN.user.id, True)
    assert (await shop.start(id)).status_code == 409
    assert (await shop.ended(id)).status is Status.DENIED
    record = await shop.house.service.view(ANN, id)
    assert not isinstance(record, Decision)


class NoneAnnounced:
    """Hosts that were enrolled, and of which nothing was heard yet."""

    async def entries(self) -> list[HostEntry]:
        return []

    async def entry(self, host: str) -> HostEntry | None:
        return None


async def test_a_name_that_a_host_has_too_is_refused_with_both_targets_named(shop: Shop) -> None:
    resolver, grant = shop.house.resolver, Grant("user:ann", {})
    assert resolver.django
    executor = resolver.django.executor
    resolver.hosts = HostTargets(
        NoneAnnounced(),
        load_profile("host"),
        lambda entry: executor,
        lambda: {"shop": {}, "web-01": {}},
        lambda: [grant],
        shop.common.projects,
        resolver.limits,
        shop.clock,
    )

    async def target(line: str, who: Principal = ANN) -> Decision | str:
        command, ref = addressed(line, OWN)
        assert command == "migrate"
        found = await resolver.resolve(who, ref)
        return found if isinstance(found, Decision) else str(found.ref)

    refused = await target("@shop migrate")
    assert isinstance(refused, Decision)
    assert (refused.rule, refused.hint) == ("target.ambiguous", "Write @host:shop or @django:shop.")
    assert await target("@host:shop migrate") == "host:shop"
    assert await target("@django:shop migrate") == f"django:{shop.project}"
    assert await target("@web-01 migrate") == "host:web-01"
    unknown = await target("@shop migrate", BOB)  # who may use neither does not learn of them
    assert isinstance(unknown, Decision)
    assert unknown.rule == "target.unknown"
    resolver.hosts = None
    assert await target("@shop migrate") == f"django:{shop.project}"
