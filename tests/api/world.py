"""A server with people, programs and projects in it, for the tests of the API."""

import asyncio
import itertools
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt

from backend.accounts.credentials import LONGEST_LIFE, hash_password, new_api_token, new_login_link, secret_hash
from backend.core.identity import Permission, Role
from backend.runtime.clock import new_id, now_ms
from backend.storage.database import Database, database_url
from backend.storage.identities import SqlIdentities
from tests.preloaded import Before
from tests.serving import ANY_PROGRAM, Server, clean_up, processes_of, start, wait_until

PASSWORD = "canary-password-7f3a9c"
SECRET_KEY = "canary-secret-key-for-access-tokens-" + "0123456789" * 3
VISITOR_TOKEN = "canary-visitor-token-51d2"
HASH = hash_password(PASSWORD)
READ, EXECUTE = frozenset({Permission.READ}), frozenset({Permission.EXECUTE})
USERS = {
    "root": Role.ADMIN,
    "ann": Role.OPERATOR,
    "bob": Role.OPERATOR,
    "cleo": Role.OPERATOR,
    "vic": Role.VIEWER,
    "dora": Role.OPERATOR,
}
ROOMY = {
    **ANY_PROGRAM,
    "TRUSTED_PROXY_HOPS": "1",
    "GATEPOST_SECRET_KEY": SECRET_KEY,
    "GATEPOST_USER_RATE": "1000000/minute",
    "GATEPOST_API_RATE": "1000000/minute",
    "GATEPOST_CONCURRENT_PER_PRINCIPAL": "64",
    "GATEPOST_CONCURRENT_TOTAL": "256",
    "GATEPOST_CONNECTIONS_PER_ADDRESS": "1000",
}
_addresses = itertools.count(1)

Json = dict[str, Any]


def address() -> str:
    """A client address that no request had before, so that no limit of another test is met."""
    number = next(_addresses)
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def access_token(user_id: str, *, key: str | bytes = SECRET_KEY, algorithm: str = "HS256", **claims: Any) -> str:
    """An access token as the server makes them, with `claims` changed; those that are None are left out."""
    now = int(time.time())
    payload = {
        "iss": "gatepost",
        "aud": "gatepost",
        "sub": user_id,
        "jti": new_id(),
        "iat": now,
        "exp": now + LONGEST_LIFE,
    }
    return jwt.encode(
        {name: value for name, value in (payload | claims).items() if value is not None}, key, algorithm=algorithm
    )


@dataclass
class World:
    """The server, the ids of its people, the tokens they show and the projects of ann.

    `project` has cleo and vic as members, `private` nobody; in both `pyguard WORDS` runs WORDS.
    """

    server: Server
    users: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    project: str = ""
    private: str = ""
    client: httpx.Client = field(default_factory=lambda: httpx.Client(verify=False, timeout=30))

    def headers(self, who: str | None, origin: str = "") -> dict[str, str]:
        shown = {"X-Forwarded-For": origin or address()}
        return shown | ({"Authorization": f"Bearer {self.tokens.get(who, who)}"} if who else {})

    def ask(self, who: str | None, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """One request as `who` (a name of `tokens`, or a token)."""
        headers = self.headers(who) | options.pop("headers", {})
        if body is not None:
            options["json"] = body
        return self.client.request(method, self.server.url + path, headers=headers, **options)

    def execute(self, who: str, command: str, **fields: Any) -> httpx.Response:
        """POST /api/agent/execute, in ann's project unless `project_id` is given."""
        return self.ask(who, "POST", "/api/agent/execute", {"project_id": self.project, "command": command, **fields})

    def start(self, who: str, command: str, headers: Mapping[str, str] | None = None, **fields: Any) -> str:
        """POST /api/executions in ann's project; the id."""
        body = {"project_id": self.project, "command": command, **fields}
        answer = self.ask(who, "POST", "/api/executions", body, headers=dict(headers or {}))
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def status(self, execution: str, who: str = "root") -> str:
        return str(self.ask(who, "GET", f"/api/executions/{execution}").json()["status"])

    def ended(self, execution: str) -> str:
        """Wait for the end of an execution; its status."""
        return str(
            wait_until(lambda: (now := self.status(execution)) != "running" and now, f"the end of {execution}", 20)
        )

    def events(self, **fields: Any) -> list[Json]:
        """The events of the audit that have these fields."""
        return [event for event in audit(self.server.data_dir) if fields.items() <= event.items()]


def audit(data_dir: Path) -> list[Json]:
    """All events of the audit, from the database file."""
    with sqlite3.connect(data_dir / "gatepost.db") as database:
        rows = database.execute("select body from audit_events order by seq").fetchall()
    database.close()
    return [httpx.Response(200, content=body).json() for (body,) in rows]


async def with_accounts(data_dir: Path, work: Any) -> Any:
    """Do `work(identities)` on the database of a server, while it runs, as the command line does."""
    database = Database(database_url(None, data_dir))
    try:
        return await work(SqlIdentities(database, now_ms, new_id))
    finally:
        await database.close()


def accounts(data_dir: Path, work: Any) -> Any:
    """The same for a test that is no coroutine, and for a fixture, under which a loop may run."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(with_accounts(data_dir, work))).result()


def age(data_dir: Path, user_id: str) -> None:
    """Let an account be a minute older than it is. A token that was issued within the second of a change outlives it."""
    database = sqlite3.connect(data_dir / "gatepost.db")
    with database:
        database.execute("update users set valid_from_ms = valid_from_ms - 60000 where id = ?", (user_id,))
    database.close()


async def new_link(identities: SqlIdentities, user_id: str, minutes: int = 15) -> str:
    ticket = new_login_link(secrets.token_bytes)
    await identities.add_link(secret_hash(ticket), user_id, now_ms() + minutes * 60_000)
    return ticket


async def new_token(
    identities: SqlIdentities, user_id: str, scopes: frozenset[Permission], ends: int | None = None
) -> tuple[str, str]:
    """A new API token and its id."""
    secret = new_api_token(secrets.token_bytes)
    return secret, (await identities.add_token(user_id, "test", scopes, secret_hash(secret), ends)).id


def login(server: Server, name: str, password: str = PASSWORD, origin: str = "") -> httpx.Response:
    """POST /api/auth/token."""
    headers = {"X-Forwarded-For": origin or address()}
    form = {"username": name, "password": password}
    # To read the certificates of all authorities, which nothing here shows, takes a client longer than the request.
    return httpx.post(f"{server.url}/api/auth/token", data=form, headers=headers, timeout=30, verify=False)


def populate(world: World) -> None:
    """Add the people and their tokens, then, through the API, the projects."""

    async def people(identities: SqlIdentities) -> None:
        for name, role in USERS.items():
            user = await identities.add_user(name, role, "agent", HASH)
            assert user
            world.users[name] = user.id
        ann, dora = world.users["ann"], world.users["dora"]
        world.tokens["read"], _ = await new_token(identities, ann, READ)
        world.tokens["execute"], _ = await new_token(identities, ann, EXECUTE)
        world.tokens["program"], _ = await new_token(identities, ann, READ | EXECUTE)
        world.tokens["scoped"], _ = await new_token(identities, world.users["root"], READ | EXECUTE)
        world.tokens["expired"], _ = await new_token(identities, ann, READ | EXECUTE, now_ms() - 1)
        world.tokens["revoked"], id = await new_token(identities, ann, READ | EXECUTE)
        await identities.revoke_token(id)
        world.tokens["disabled program"], _ = await new_token(identities, dora, READ | EXECUTE)

    accounts(world.server.data_dir, people)
    world.tokens |= {name: access_token(id) for name, id in world.users.items()}
    world.tokens["ann"] = login(world.server, "ann").json()["access_token"]
    world.tokens["disabled"] = world.tokens["dora"]
    world.tokens["visitor"] = VISITOR_TOKEN
    accounts(world.server.data_dir, lambda identities: identities.set_disabled(world.users["dora"], True))
    world.project = new_project(world, members=["cleo", "vic"])
    world.private = new_project(world)


def new_project(world: World, members: list[str] | None = None, **fields: Any) -> str:
    """A project of ann in which `pyguard WORDS` runs WORDS."""
    made = world.ask("ann", "POST", "/api/projects", {"name": "A place", "members": members or []})
    assert made.status_code == 201, made.text
    wider = {"allowed_extra": ["pyguard"], **fields}
    changed = world.ask("root", "PATCH", f"/api/projects/{made.json()['id']}", wider)
    assert changed.status_code == 200, changed.text
    return str(made.json()["id"])


@contextmanager
def running_world(folder: Path, env: Mapping[str, str] | None = None, before: Before = ()) -> Iterator[World]:
    """A server with everybody in it, ended at the end."""
    folder.chmod(0o711)
    server = start(folder, {**ROOMY, **(env or {})}, before=before)
    try:
        world = World(server)
        with closing(world.client):
            populate(world)
            yield world
    finally:
        if server.process.poll() is None:
            server.stop()
        clean_up([process for process in processes_of(server) if process.state != "Z"])
