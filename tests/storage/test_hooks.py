"""Hooks from the request to the execution: stored in SQLite and PostgreSQL, called over real sockets."""

import asyncio
import json
import shlex
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from backend.accounts.authentication import Authenticator
from backend.accounts.credentials import Tokens, new_api_token, secret_hash
from backend.application.hooks import HookCalls, HookService
from backend.core.hooks.model import Choice, Hook, Integer, Text
from backend.core.hooks.rules import LONGEST_BODY
from backend.core.identity import Role, User
from backend.core.limits import Rate
from backend.core.notifications.rules import new_secret, signed_headers
from backend.core.ports import Filter
from backend.runtime.clock import new_id
from backend.storage.database import Database, database_url
from backend.storage.hooks import SqlHooks
from backend.storage.identities import SqlIdentities
from backend.storage.limiter import MovingWindow
from backend.transports.dependencies import Access
from backend.transports.hooks_api import BODY_LIMITS, HookRoutes, hook_routes
from backend.transports.problems import add_problems
from backend.transports.security import Connections, Rejections, Security
from tests.client import BOUND
from tests.recipes.house import House, Shared, build, shared
from tests.storage.conftest import START

NOW = 1_700_000_000  # seconds, by the clock of `shared`
BRANCH: dict[str, Any] = {"type": "text", "pattern": "[ -~]+", "max_length": 100, "example": "main"}
PARAMETERS: dict[str, Any] = {"branch": BRANCH, "stage": {"type": "choice", "values": ["test", "live"]}}
NEW: dict[str, Any] = {"name": "deploy", "command": "echo {branch} 'is at' {stage}", "parameters": PARAMETERS}
VALUES: dict[str, Any] = {"branch": "main", "stage": "test"}
HOOK = Hook(
    "0" * 26,
    "",
    "a name",
    "echo {a} {b} {c}",
    {"a": Choice(("x", "\u00e9")), "b": Integer(-1, 2**53 - 1), "c": Text("[a-z]*", 9, "main")},
    "project:01J",
    "src",
    60,
    new_secret(b"k" * 32),
    START,
)


async def stored_user(database: Database, name: str) -> User:
    user = await SqlIdentities(database, lambda: START, new_id).add_user(name, Role.OPERATOR)
    assert user
    return user


async def test_the_contract_of_the_store(database: Database) -> None:
    store, ann, bob = SqlHooks(database), await stored_user(database, "ann"), await stored_user(database, "bob")
    first = replace(HOOK, owner_id=ann.id)
    second = replace(first, id="1" * 26, parameters={}, timeout=None)
    other = replace(first, id="2" * 26, owner_id=bob.id)
    assert [await store.add(each, 2) for each in (first, second, other)] == [True] * 3
    assert await store.add(replace(first, id="3" * 26), 2) is False
    assert await store.get(first.id) == first
    assert [await store.get(id) for id in ("", "9" * 26, "x" * 99, "\0")] == [None] * 4
    assert await store.of(ann.id) == [first, second]
    assert await store.of(None) == [first, second, other]
    assert [await store.rotate(id, "s", START + 1) for id in (first.id, "9" * 26)] == [True, False]
    assert await store.get(first.id) == replace(first, secret="s", old_secret=first.secret, old_until_ms=START + 1)
    assert [each.secret for each in await store.of(None)] == ["s", second.secret, other.secret]
    assert [await store.delete(first.id) for _ in range(2)] == [True, False]
    assert await store.of(ann.id) == [second]


@dataclass
class Desk:
    """A server with the routes of hooks, and a client of it."""

    client: httpx.AsyncClient
    common: Shared
    house: House
    users: SqlIdentities
    token: str
    owner: User
    seconds: int = NOW

    async def added(self, **changed: Any) -> dict[str, Any]:
        answer = await self.asked("POST", "", json=NEW | changed)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def asked(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token}"}
        return await self.client.request(method, f"/api/hooks{path}", headers=headers, **options)

    async def called(self, hook: dict[str, Any], body: Any = VALUES, id: str = "m1", **changed: str) -> httpx.Response:
        """Send a call that is signed; `changed` are headers that are replaced afterwards."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = signed_headers(hook["secret"], id, self.seconds, content)
        changed = {f"webhook-{name}": value for name, value in changed.items()}
        return await self.client.post(hook["url"], content=content, headers=headers | changed)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [{**each.fields, "actor": each.actor} for each in self.common.audit.events if each.kind == kind]

    async def commands(self) -> list[str]:
        return [each.command for each in await self.common.executions.page(Filter())]


def _app(desk: Desk, store: SqlHooks, calls: int, failures: int) -> FastAPI:
    common, window = desk.common, MovingWindow(Rate(10_000, 60))
    tokens = Tokens(b"k" * 64, lambda: 0.0, common.new_id)
    judge = Authenticator(desk.users, tokens, common.clock, time.monotonic)
    failed = MovingWindow(Rate(failures, 60))
    security = Security(Connections(9, 9), (), 0, False, None, judge, failed, common.new_id)
    access = Access(security, common.audit, window, Rejections(common.audit, window), str)
    app = FastAPI(max_body_size=2 * LONGEST_BODY)
    add_problems(app, access.rejected, BODY_LIMITS)
    now_ms, own = lambda: desk.seconds * 1000, desk.house.service
    randomness = lambda size: common.new_id().encode().ljust(size)[:size]  # noqa: E731
    service = HookService(store, own, common.audit, 2, now_ms, new_id, randomness)
    counted = MovingWindow(Rate(calls, 60))
    called = HookCalls(store, own, desk.users, common.audit, counted, failed, now_ms, randomness)
    app.include_router(hook_routes(HookRoutes(access, service, called, desk.users)))
    return app


@asynccontextmanager
async def serving(folder: Path, calls: int = 100, failures: int = 3) -> AsyncIterator[Desk]:
    common = shared()
    database = Database(database_url(None, folder))
    await database.migrate()
    users = SqlIdentities(database, common.clock, common.new_id)
    owner = await users.add_user("ann", Role.OPERATOR)
    assert owner
    secret = new_api_token(lambda size: b"a" * size)
    await users.add_token(owner.id, "t", owner.role.permissions, secret_hash(secret), None)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", verify=False) as client:
            desk = Desk(client, common, build(common), users, secret, owner)
            app = _app(desk, SqlHooks(database), calls, failures)
            server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
            running = asyncio.create_task(server.serve([listening]))
            try:
                yield desk
            finally:
                server.should_exit = True
                await running
                await database.close()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with serving(tmp_path) as made:
        yield made


async def test_a_call_starts_the_line_as_its_owner_once_for_each_id(desk: Desk) -> None:
    hook = await desk.added()
    first = await desk.called(hook)
    assert (first.status_code, first.json()["url"]) == (202, f"/api/executions/{first.json()['id']}")
    assert first.headers["location"] == first.json()["url"]
    async with asyncio.timeout(BOUND):
        while (await desk.called(hook)).json()["status"] != "succeeded":  # the same id: the same execution
            await asyncio.sleep(0)
    desk.seconds += 60  # sent again a minute later, and so signed again
    assert (await desk.called(hook)).json()["id"] == first.json()["id"]
    assert (await desk.called(hook, VALUES | {"branch": "next"})).json()["rule"] == "idempotency.mismatch"
    assert await desk.commands() == ["echo main 'is at' test"]
    (record,) = await desk.common.executions.page(Filter(user_id=desk.owner.id))
    called = desk.events("hook_called")
    assert called[0]["execution"] == record.id == first.json()["id"]
    assert (called[0]["actor"], called[0]["webhook_id"]) == (f"hook:{hook['id']}", "m1")
    assert called[-1]["rule"] == "idempotency.mismatch"


async def test_hooks_are_shown_without_their_secrets(desk: Desk) -> None:
    hook = await desk.added()
    secret = hook.pop("secret")
    assert (await desk.asked("GET", "")).json() == [hook]
    assert (await desk.asked("DELETE", f"/{hook['id']}")).status_code == 204
    assert (await desk.asked("DELETE", f"/{hook['id']}")).json()["rule"] == "hook.unknown"
    assert (await desk.called(hook | {"secret": secret})).status_code == 404
    assert [len(desk.events(kind)) for kind in ("hook_created", "hook_deleted", "hook_called")] == [1, 1, 0]
    assert secret not in repr(desk.common.audit.events)


async def test_a_new_secret_ends_the_old_one(desk: Desk) -> None:
    old = await desk.added()
    answer = await desk.asked("POST", f"/{old['id']}/rotate", json={"overlap": 0})
    assert (answer.status_code, {**answer.json(), "secret": ""}) == (201, {**old, "secret": ""})
    assert (await desk.called(old)).json()["rule"] == "hook.signature"
    assert (await desk.called(answer.json())).status_code == 202
    never = await desk.asked("POST", "/01ARZ3NDEKTSV4RRFFQ69G5FAV/rotate", json={})
    assert never.json()["rule"] == "hook.unknown"
    assert answer.json()["secret"] not in repr(desk.common.audit.events)
    assert len(desk.events("hook_rotated")) == 1


async def test_an_old_secret_is_valid_for_a_while(desk: Desk) -> None:
    first = await desk.added()
    second = (await desk.asked("POST", f"/{first['id']}/rotate", json={"overlap": 60})).json()
    for hook in (first, second):
        assert (await desk.called(hook)).status_code == 202
    desk.seconds = NOW + 60
    assert (await desk.called(first)).json()["rule"] == "hook.signature"
    assert (await desk.called(second)).status_code == 202
    assert desk.events("hook_rotated")[0]["overlap_seconds"] == 60
    third = (await desk.asked("POST", f"/{first['id']}/rotate", json={})).json()
    desk.seconds += 24 * 3600 - 1
    assert [(await desk.called(hook)).status_code for hook in (first, second, third)] == [401, 202, 202]
    for wrong in (-1, 31 * 24 * 3600, "a day", None):
        assert (await desk.asked("POST", f"/{first['id']}/rotate", json={"overlap": wrong})).status_code == 422


async def test_what_is_not_signed_is_refused_and_recorded(desk: Desk) -> None:
    hook = await desk.added()
    unsigned = await desk.client.post(hook["url"], json=VALUES)
    assert (unsigned.status_code, unsigned.json()["rule"]) == (401, "hook.signature")
    for off in (-301, 301):
        desk.seconds = NOW + off
        headers = signed_headers(hook["secret"], "m1", NOW, b"{}")
        stale = await desk.client.post(hook["url"], content=b"{}", headers=headers)
        assert (stale.status_code, stale.json()["rule"]) == (401, "hook.time")
    assert (await desk.called(hook, signature="v1,AAAA")).json()["rule"] == "hook.signature"
    assert (await desk.called(hook, id="m1", timestamp=str(desk.seconds - 1))).status_code == 401
    never = {"url": "/hooks/01ARZ3NDEKTSV4RRFFQ69G5FAV", "secret": hook["secret"]}
    assert (await desk.called(never)).json()["rule"] == "hook.unknown"
    limited = await desk.called(never)
    assert (limited.status_code, limited.json()["rule"]) == (429, "auth.limited")
    assert (await desk.called(hook)).status_code == 202  # who knows the secret is not kept waiting by others
    rules = [each["rule"] for each in desk.events("rejected")]
    assert rules == [
        *["hook.signature", "hook.time", "hook.time", "hook.signature", "hook.signature"],
        *["hook.unknown", "auth.limited"],
    ]
    assert len(await desk.commands()) == 1


async def test_values_stay_words(desk: Desk) -> None:
    hook = await desk.added()
    hostile = ["it's; ls", "$(ls) `ls`", "a' && ls '", "{stage}", "> out"]
    for number, value in enumerate(hostile):
        answer = await desk.called(hook, {"branch": value, "stage": "test"}, id=f"m{number}")
        assert answer.status_code == 202, answer.text
    lines = [shlex.split(line) for line in await desk.commands()]
    assert sorted(lines) == sorted(["echo", value, "is at", "test"] for value in hostile)
    wrong: list[dict[str, Any]] = [
        *({"branch": "-n"}, {"branch": "a\nb"}, {"branch": "a;" * 99}),
        *({"stage": "other"}, {"stage": ["test"]}, {"more": 1}),
    ]
    for number, values in enumerate(wrong):
        answer = await desk.called(hook, VALUES | values, id=f"n{number}")
        assert (answer.status_code, answer.json()["rule"]) == (422, "hook.value")
    for body in (b"", b"[]", b"{", b"[" * 50_000):
        assert (await desk.called(hook, body)).json()["rule"] == "hook.value"
    assert len(await desk.commands()) == len(hostile)


async def test_a_huge_body_is_not_read(desk: Desk) -> None:
    hook = await desk.added()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):  # more than a call may have, less than other bodies
            yield b" " * 4096

    headers = signed_headers(hook["secret"], "m1", NOW, b"")
    for content in (b" " * (LONGEST_BODY + 1), endless()):
        answer = await desk.client.post(hook["url"], content=content, headers=headers)
        assert (answer.status_code, answer.json()["rule"]) == (413, "limits.body")
    largest = b"%b%b" % (json.dumps(VALUES).encode(), b" " * (LONGEST_BODY - len(json.dumps(VALUES))))
    assert (await desk.called(hook, largest)).status_code == 202


async def test_the_owner_is_judged_when_it_is_saved_and_when_it_is_called(desk: Desk) -> None:
    refused = {
        "no_such_program {branch} {stage}": "program.unlisted",
        "echo {branch}": "hook.line",
        "echo '{branch}' {stage}": "hook.line",
    }
    for line, rule in refused.items():
        answer = await desk.asked("POST", "", json=NEW | {"command": line})
        assert answer.json()["rule"] == rule, answer.text
    answer = await desk.asked("POST", "", json=NEW | {"target": "project:01J"})
    assert (answer.status_code, answer.json()["rule"]) == (404, "project.unknown")
    pattern = await desk.asked(
        "POST", "", json=NEW | {"parameters": PARAMETERS | {"branch": BRANCH | {"pattern": "(a+)+"}}}
    )
    assert (pattern.status_code, pattern.json()["rule"]) == (422, "hook.parameter")
    hook = await desk.added()
    assert await desk.users.set_disabled(desk.owner.id, True)
    answer = await desk.called(hook)
    assert (answer.status_code, answer.json()["rule"]) == (403, "role.forbidden")
    (denied,) = desk.events("denied")
    assert desk.events("hook_called")[0]["execution"] == denied["execution"] == answer.json()["command_id"]
    assert desk.events("hook_called")[0]["rule"] == "role.forbidden"


async def test_there_are_only_so_many_calls_and_hooks(tmp_path: Path) -> None:
    async with serving(tmp_path, calls=2) as desk:
        hook = await desk.added()
        answers = [await desk.called(hook, id=f"m{number}") for number in range(3)]
        assert [each.status_code for each in answers] == [202, 202, 429]
        assert answers[2].json()["rule"] == "limits.rate"
        assert int(answers[2].headers["retry-after"]) > 0
        await desk.added()
        answer = await desk.asked("POST", "", json=NEW)
        assert (answer.status_code, answer.json()["rule"]) == (409, "hook.too_many")
