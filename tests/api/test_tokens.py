"""What proves who one is: every bad token on every way in, logging in and out, and that nothing of it leaks."""

import asyncio
import base64
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from backend.core.identity import Role
from backend.storage.identities import SqlIdentities
from tests.api.world import (
    EXECUTE,
    HASH,
    PASSWORD,
    READ,
    ROOMY,
    SECRET_KEY,
    VISITOR_TOKEN,
    World,
    access_token,
    accounts,
    address,
    age,
    audit,
    login,
    new_link,
    new_token,
    running_world,
    with_accounts,
)
from tests.client import terminal
from tests.conftest import StartServer
from tests.password_work import SHIPPED
from tests.serving import all_processes, wait_until

HOUR = 3600
NOW = int(time.time())


def _unsigned(user_id: str) -> str:
    """An access token of the algorithm `none`, with the empty signature that it has."""
    head, body, _ = access_token(user_id).split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    return f"{head}.{body}."


def _altered(user_id: str, other: str) -> str:
    """The signature of one token under the claims of another."""
    head, _, signature = access_token(user_id).split(".")
    return ".".join((head, access_token(other).split(".")[1], signature))


BAD: dict[str, Callable[[World], str]] = {
    "alg none": lambda world: _unsigned(world.users["ann"]),
    "alg none without its dot": lambda world: _unsigned(world.users["ann"]).rstrip("."),
    "alg HS384": lambda world: access_token(world.users["ann"], algorithm="HS384"),
    "alg HS512": lambda world: access_token(world.users["ann"], algorithm="HS512"),
    "other key": lambda world: access_token(world.users["ann"], key=SECRET_KEY[::-1]),
    "empty key": lambda world: access_token(world.users["ann"], key=b"\0" * 32),
    "claims of another": lambda world: _altered(world.users["ann"], world.users["root"]),
    "expired": lambda world: access_token(world.users["ann"], iat=NOW - 2 * HOUR, exp=NOW - HOUR),
    "no exp": lambda world: access_token(world.users["ann"], exp=None),
    "exp in ten years": lambda world: access_token(world.users["ann"], exp=NOW + 10 * 8766 * HOUR),
    "exp no number": lambda world: access_token(world.users["ann"], exp=str(NOW + HOUR)),
    "exp infinite": lambda world: access_token(world.users["ann"], exp=1e308),
    "not yet": lambda world: access_token(world.users["ann"], nbf=NOW + HOUR),
    "issued tomorrow": lambda world: access_token(world.users["ann"], iat=NOW + 12 * HOUR, exp=NOW + 13 * HOUR),
    "no iat": lambda world: access_token(world.users["ann"], iat=None),
    "other audience": lambda world: access_token(world.users["ann"], aud="other"),
    "no audience": lambda world: access_token(world.users["ann"], aud=None),
    "other issuer": lambda world: access_token(world.users["ann"], iss="other"),
    "no issuer": lambda world: access_token(world.users["ann"], iss=None),
    "no jti": lambda world: access_token(world.users["ann"], jti=None),
    "a jti that is no id": lambda world: access_token(world.users["ann"], jti="x" * 300),
    "no subject": lambda world: access_token(world.users["ann"], sub=None),
    "a subject that nobody is": lambda _: access_token("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
    "the name as subject": lambda _: access_token("ann"),
    "issued before a change": lambda world: access_token(world.users["ann"], iat=NOW - 12 * HOUR),
    "disabled account": lambda world: access_token(world.users["dora"]),
    "disabled program": lambda world: world.tokens["disabled program"],
    "revoked API token": lambda world: world.tokens["revoked"],
    "expired API token": lambda world: world.tokens["expired"],
    "API token in capitals": lambda world: world.tokens["program"].upper(),
    "API token cut short": lambda world: world.tokens["program"][:-1],
    "API token made longer": lambda world: world.tokens["program"] + "A",
    "only the prefix": lambda _: "gp_",
    "a login ticket": lambda world: str(
        accounts(world.server.data_dir, lambda identities: new_link(identities, world.users["ann"]))
    ),
    "the password": lambda _: PASSWORD,
    "the id of the account": lambda world: world.users["ann"],
    "nothing": lambda _: "",
    "dots": lambda _: "..",
    "5000 characters": lambda world: access_token(world.users["ann"], x="x" * 5000),
    "the visitors' token cut short": lambda _: VISITOR_TOKEN[:-1],
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_token_opens_nothing(world: World, name: str) -> None:
    token = BAD[name](world)
    shown = {"Authorization": f"Bearer {token}".strip()}
    answer = world.ask(None, "GET", "/api/auth/me", headers=shown)
    assert (answer.status_code, answer.json()["rule"]) == (401, "auth.wrong")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert len(token) < 3 or token not in answer.text
    for headers, first in ((shown, None), ({}, token)):
        options: dict[str, Any] = {"additional_headers": {"X-Forwarded-For": address(), **headers}}
        async with terminal(world.server, greeted=False, **options) as client:
            with suppress(ConnectionClosed):
                if first is not None:
                    await client.send(type="auth", token=first)
                await client.send(type="run", command="pwd")
            messages = await _until_closed(client)
            assert client.socket.close_code == 4001
        assert messages[-1]["rule"] == "auth.wrong"
        assert {message["type"] for message in messages} == {"error"}


@pytest.mark.parametrize("who", ["ann", "program", "fresh"])
async def test_a_good_token_opens_every_way_in(world: World, who: str) -> None:
    """The control of the test above."""
    token = access_token(world.users["ann"]) if who == "fresh" else world.tokens[who]
    assert world.ask(token, "GET", "/api/auth/me").json()["name"] == "ann"
    async with terminal(world.server, additional_headers=world.headers(token)) as client:
        assert client.greeting[-1]["user"] == "ann"
    async with terminal(world.server, greeted=False, additional_headers=world.headers(None)) as client:
        await client.send(type="auth", token=token)
        assert (await client.until("ready"))[-1]["user"] == "ann"


@pytest.mark.parametrize("scheme", ["Basic", "Token", "bearer", "BEARER"])
def test_the_scheme_is_bearer_in_any_case(world: World, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {world.tokens['ann']}"}
    status = world.ask(None, "GET", "/api/auth/me", headers=headers).status_code
    assert status == (200 if scheme.lower() == "bearer" else 401)


@pytest.mark.parametrize("name", ["token", "access_token", "authorization", "ticket"])
async def test_a_token_in_the_url_counts_for_nothing(world: World, name: str) -> None:
    query = f"?{name}={world.tokens['program']}"
    assert world.ask(None, "GET", f"/api/auth/me{query}").status_code == 401
    assert world.ask(None, "GET", "/api/auth/me", headers={"Cookie": query[1:]}).status_code == 401
    async with connect(f"{world.server.ws_url}{query}", additional_headers={"X-Forwarded-For": address()}) as socket:
        assert json.loads(await socket.recv())["rule"] == "auth.required"


def test_wrong_tokens_are_limited_for_an_address(world: World) -> None:
    origin = address()
    headers = {"X-Forwarded-For": origin, "Authorization": "Bearer gp_wrong"}
    answers = [world.ask(None, "GET", "/api/auth/me", headers=headers) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429]
    assert answers[-1].json()["rule"] == "auth.limited"
    assert 0 < int(answers[-1].headers["retry-after"]) <= 61
    assert world.ask("ann", "GET", "/api/auth/me").status_code == 200


class TestEnding:
    """A token that ends, ends at once for REST, and within ten seconds for what is open."""

    CHANGES = ("logout", "disabled", "password", "API token", "role", "expiry")

    async def test_what_is_open_is_closed_within_ten_seconds(self, world: World) -> None:
        people = {}
        for change in self.CHANGES:
            name = change.split()[-1].lower()
            people[change] = await with_accounts(
                world.server.data_dir, lambda i, n=name, c=change: _person(i, world, n, c)
            )
        _, reader = await with_accounts(world.server.data_dir, lambda identities: _person(identities, world, "reader"))
        ends = await asyncio.gather(
            *(self._end(world, change, *each) for change, each in people.items()), self._end_stream(world, reader)
        )
        assert all(seconds < 10 for seconds in ends), ends

    async def _end(self, world: World, change: str, user: str, token: str) -> float:
        """Open a socket, end its token by `change`; the seconds until it is closed."""
        async with terminal(world.server, additional_headers=world.headers(token)) as client:
            await client.send(type="run", command="cat")
            await client.receive()
            began = time.monotonic()
            await with_accounts(
                world.server.data_dir, lambda identities: _change(world, identities, user, change, token)
            )
            if change not in {"role", "expiry"}:
                answer = await asyncio.to_thread(world.ask, token, "GET", "/api/auth/me")
                assert answer.status_code == 401
            messages = await _until_closed(client, 12)
            assert client.socket.close_code == 4001, change
            assert messages[-1]["rule"] == "auth.ended"
            return time.monotonic() - began

    async def test_who_does_not_read_is_let_go_too(self, world: World) -> None:
        """No word reaches them, and what they send does not count any more."""
        user, token = await with_accounts(world.server.data_dir, lambda identities: _person(identities, world, "deaf"))
        project = await asyncio.to_thread(_place, world, token)
        before = self._sockets(world)
        async with terminal(world.server, additional_headers=world.headers(token)) as client:
            # Much more than the buffers between us take; the client reads some frames ahead, and no further.
            await client.send(type="run", project=project, command="pyguard seq 1000000")
            await client.until("stdout")
            await with_accounts(world.server.data_dir, lambda identities: identities.set_disabled(user, True))
            await asyncio.to_thread(wait_until, lambda: self._sockets(world) == before, "the end of the session", 12)
            await client.send(type="run", project=project, command="touch late.txt")
        commands = [entry["command"] for entry in world.ask("root", "GET", f"/api/agent/history/{project}").json()]
        assert commands == ["pyguard seq 1000000"]

    def _sockets(self, world: World) -> int:
        return int(world.server.get("/health").json["active_connections"])

    async def _end_stream(self, world: World, token: str) -> float:
        """The same for server-sent events of a command that writes all the time."""
        execution = await asyncio.to_thread(self._ticking, world, token)
        url = f"{world.server.url}/api/executions/{execution}/events"
        async with (
            httpx.AsyncClient(verify=False) as client,
            client.stream("GET", url, headers=world.headers(token)) as answer,
        ):
            assert answer.status_code == 200
            pieces = answer.aiter_bytes()
            assert b"id: 1\n" in await anext(pieces)
            revoked = await client.post(f"{world.server.url}/api/auth/revoke", headers=world.headers(token))
            assert revoked.status_code == 204
            began = time.monotonic()
            async with asyncio.timeout(12):
                async for _ in pieces:
                    pass
        seconds = time.monotonic() - began
        assert await asyncio.to_thread(world.status, execution) == "running"
        await asyncio.to_thread(world.ask, "root", "POST", f"/api/executions/{execution}/cancel")
        return seconds

    def _ticking(self, world: World, token: str) -> str:
        return world.start(
            token, "pyguard bash -c 'while :; do echo tick; sleep 0.1; done'", project_id=_place(world, token)
        )

    def test_a_new_password_ends_logins_and_not_programs(self, world: World) -> None:
        _, token = accounts(world.server.data_dir, lambda identities: _person(identities, world, "changer"))
        user = world.ask(token, "GET", "/api/auth/me").json()["id"]
        program, _ = accounts(world.server.data_dir, lambda identities: new_token(identities, user, READ))
        accounts(world.server.data_dir, lambda identities: identities.set_password(user, HASH))
        assert world.ask(token, "GET", "/api/auth/me").status_code == 401
        assert world.ask(program, "GET", "/api/auth/me").status_code == 200


def _place(world: World, token: str) -> str:
    """A project of the account in which `pyguard WORDS` runs WORDS."""
    project = str(world.ask(token, "POST", "/api/projects", {"name": "Stream"}).json()["id"])
    world.ask("root", "PATCH", f"/api/projects/{project}", {"allowed_extra": ["pyguard"]})
    return project


async def _person(identities: SqlIdentities, world: World, name: str, change: str = "") -> tuple[str, str]:
    """A new account and a token of it."""
    user = await identities.add_user(name, Role.OPERATOR, "agent", HASH)
    assert user
    age(world.server.data_dir, user.id)
    if change == "API token":
        return user.id, (await new_token(identities, user.id, READ | EXECUTE))[0]
    now = int(time.time())
    return user.id, access_token(user.id, iat=now - 30, exp=now + (3 if change == "expiry" else 600))


async def _change(world: World, identities: SqlIdentities, user: str, change: str, token: str) -> None:
    match change:
        case "logout":
            answer = await asyncio.to_thread(world.ask, token, "POST", "/api/auth/revoke")
            assert answer.status_code == 204
        case "disabled":
            await identities.set_disabled(user, True)
        case "password":
            await identities.set_password(user, HASH)
        case "API token":
            await identities.revoke_token((await identities.tokens(user))[0].id)
        case "role":
            await identities.set_role(user, Role.VIEWER)


async def _until_closed(client: Any, bound: float = 8) -> list[dict[str, Any]]:
    """What comes until the server closes the socket."""
    messages = []
    async with asyncio.timeout(bound):
        with pytest.raises(ConnectionClosed):
            while True:
                messages.append(await client.receive(bound))
    return messages


class TestVisitors:
    """Those without an account."""

    async def test_a_server_without_visitors_wants_an_account(self, tmp_path: Path) -> None:
        with running_world(tmp_path, {"GATEPOST_VISITORS": "false", "GATEPOST_ACCESS_TOKEN": VISITOR_TOKEN}) as closed:
            for token in ("visitor", None):
                async with terminal(closed.server, greeted=False, additional_headers=closed.headers(token)) as client:
                    if token is None:
                        assert (await client.receive())["rule"] == "auth.required"
                        await client.send(type="run", command="pwd")
                    messages = await _until_closed(client)
                    assert client.socket.close_code == 4001
                    assert "ready" not in {message["type"] for message in messages}
            async with terminal(closed.server, greeted=False, additional_headers=closed.headers(None)) as client:
                await client.send(type="auth", token=closed.tokens["ann"])
                assert (await client.until("ready"))[-1] | {"user": "ann", "profile": "agent"}
                assert (await client.run("pwd"))[-1]["status"] == "succeeded"
            never = "/api/executions/01ARZ3NDEKTSV4RRFFQ69G5FAV/recording"
            statuses = [closed.ask(who, "GET", never).status_code for who in (None, "visitor", "ann")]
            assert statuses == [401, 401, 404]

    async def test_a_visitor_becomes_an_account_by_a_later_message(self, tmp_path: Path) -> None:
        with running_world(tmp_path) as open_world:
            await self._becomes(open_world)

    async def _becomes(self, world: World) -> None:
        async with terminal(world.server, additional_headers=world.headers(None)) as client:
            assert (client.greeting[-1]["profile"], client.greeting[-1].get("user")) == ("terminal", None)
            visited = (await client.run("pwd"))[0]["execution"]
            assert (await client.run("git status", dry_run=True))[-1]["type"] == "error"
            await client.send(type="auth", token=world.tokens["ann"])
            ready = await client.receive()
            assert (ready["type"], ready["user"], ready["profile"]) == ("ready", "ann", "agent")
            assert (await client.run("git status", dry_run=True))[-1]["type"] == "complete"
            ran = (await client.run("pwd"))[0]["execution"]
            await client.send(type="auth", token=world.tokens["bob"])
            assert (await client.receive())["rule"] == "auth.unneeded"
            assert (await client.run("pwd", project=world.project, dry_run=True))[-1]["type"] == "complete"
        assert world.ask("root", "GET", f"/api/executions/{visited}").json()["user_id"] is None
        assert world.ask("root", "GET", f"/api/executions/{ran}").json()["user_id"] == world.users["ann"]
        async with terminal(world.server, additional_headers=world.headers(None)) as client:
            await client.send(type="auth", token="gp_wrong")
            await _until_closed(client)
            assert client.socket.close_code == 4001


class TestLogin:
    """Names, passwords and one-time links."""

    def test_a_token_has_the_promised_fields_and_works(self, world: World) -> None:
        answer = login(world.server, "cleo")
        assert answer.status_code == 200
        token = answer.json()
        assert (set(token), token["token_type"]) == ({"access_token", "token_type", "expires_in"}, "bearer")
        assert token["expires_in"] == HOUR
        assert world.ask(token["access_token"], "GET", "/api/auth/me").json()["name"] == "cleo"

    @pytest.mark.parametrize(
        ("name", "password"),
        [("ann", "wrong"), ("ann", PASSWORD + "x"), ("ann", PASSWORD.upper()), ("nobody", PASSWORD), ("dora", PASSWORD),
         ("ANN", PASSWORD), ("ann ", PASSWORD), ("admin", PASSWORD), ("ann\0", PASSWORD), ("' or 1=1 --", PASSWORD)],
    )  # fmt: skip
    def test_wrong_is_answered_the_same_whatever_is_wrong(self, world: World, name: str, password: str) -> None:
        answer = login(world.server, name, password)
        assert answer.status_code == 401
        assert answer.text == login(world.server, "no-such-name", "x").text if name == "ann" else True
        assert answer.json()["rule"] == "auth.password"
        assert bool(world.events(kind="login_failed", name=name)) == (name in {"ann", "dora", "admin"})

    def test_a_name_that_no_account_has_is_recorded_so_that_it_can_be_recognised_only(self, world: World) -> None:
        """It may be a password that was typed in the wrong field."""
        typed = "canary-password-as-name-9d"
        before = len(world.events(kind="login_failed"))
        for name in (typed, typed, f"{typed}x"):
            assert login(world.server, name, "x").status_code == 401
        first, again, other = world.events(kind="login_failed")[before:]
        assert re.fullmatch("[0-9a-f]{16}", first["unknown_name"])
        assert first["unknown_name"] == again["unknown_name"] != other["unknown_name"]
        assert "name" not in first
        assert typed not in json.dumps(audit(world.server.data_dir)) + world.server.logs

    def test_attempts_are_limited_for_an_address(self, world: World) -> None:
        origin = address()
        answers = [login(world.server, f"someone{number}", "x", origin) for number in range(11)]
        assert [answer.status_code for answer in answers] == [401] * 10 + [429]
        assert 0 < int(answers[-1].headers["retry-after"]) <= 301
        assert answers[-1].json()["rule"] == "auth.limited"
        assert login(world.server, "bob", PASSWORD, origin).status_code == 429
        assert login(world.server, "bob", PASSWORD).status_code == 200
        headers = {"X-Forwarded-For": origin}
        assert world.ask(None, "POST", "/api/auth/link", {"ticket": "gl_x"}, headers=headers).status_code == 429

    def test_attempts_are_limited_for_a_name(self, world: World) -> None:
        accounts(world.server.data_dir, lambda identities: _person(identities, world, "guessed"))
        # So many that a stranger does not keep somebody out by the way.
        answers = [login(world.server, "guessed", "x") for _ in range(101)]
        assert [answer.status_code for answer in answers] == [401] * 100 + [429]
        assert login(world.server, "guessed").status_code == 429
        assert world.events(kind="rejected", status=429, rule="auth.limited", path="/api/auth/token")

    async def test_a_flood_of_wrong_passwords_does_not_keep_out_who_logged_in_before(self, world: World) -> None:
        """200 attempts of 40 addresses: few of them wait, and the right password of a known address does not."""
        home = address()
        user, _ = await with_accounts(world.server.data_dir, lambda identities: _person(identities, world, "sought"))
        costly = SHIPPED.hash(PASSWORD)  # others of these tests are checked at once
        await with_accounts(world.server.data_dir, lambda identities: identities.set_password(user, costly))
        assert (await asyncio.to_thread(login, world.server, "sought", PASSWORD, home)).status_code == 200
        limits = httpx.Limits(max_connections=400)
        async with httpx.AsyncClient(base_url=world.server.url, limits=limits, timeout=60, verify=False) as client:
            strangers = [address() for _ in range(40)]
            flood = [asyncio.create_task(_attempt(client, each, "sought", "x")) for each in strangers * 5]
            await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
            right = await _attempt(client, home, "sought", PASSWORD)
            answers = await asyncio.gather(*flood)
        assert right.status_code == 200, "the attempts of others on its name do not count for it"
        rules = [answer.json()["rule"] for answer in answers]
        assert set(rules) == {"auth.password", "auth.busy", "auth.limited"}
        busy = answers[rules.index("auth.busy")]
        assert busy.status_code == 429
        assert 1 <= int(busy.headers["retry-after"]) <= 10

    def test_a_link_is_good_once(self, world: World) -> None:
        ticket = accounts(world.server.data_dir, lambda identities: new_link(identities, world.users["vic"]))
        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(_take, world.server.url, ticket) for _ in range(8)]
            answers = [each.result() for each in asked]
        assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7
        token = next(answer for answer in answers if answer.status_code == 200).json()["access_token"]
        assert world.ask(token, "GET", "/api/auth/me").json()["name"] == "vic"
        assert {answer.json()["rule"] for answer in answers if answer.status_code == 401} == {"auth.link"}

    @pytest.mark.parametrize(("name", "minutes"), [("ann", 0), ("ann", -1), ("dora", 15)])
    def test_a_link_that_ended_is_not_good(self, world: World, name: str, minutes: int) -> None:
        user = world.users[name]
        ticket = accounts(world.server.data_dir, lambda identities: new_link(identities, user, minutes))
        assert _take(world.server.url, ticket).status_code == 401


async def _attempt(client: httpx.AsyncClient, origin: str, name: str, password: str) -> httpx.Response:
    form = {"username": name, "password": password}
    return await client.post("/api/auth/token", data=form, headers={"X-Forwarded-For": origin})


def _take(url: str, ticket: str) -> httpx.Response:
    return httpx.post(
        f"{url}/api/auth/link", json={"ticket": ticket}, headers={"X-Forwarded-For": address()}, verify=False
    )


class TestLeaks:
    """What proves who one is stands in no log, no audit, no list of processes, and no database in clear."""

    async def test_no_secret_is_anywhere(self, tmp_path: Path) -> None:
        env = {"LOG_LEVEL": "debug", "GATEPOST_ACCESS_TOKEN": VISITOR_TOKEN}
        with running_world(tmp_path, env) as world:
            ticket = accounts(world.server.data_dir, lambda identities: new_link(identities, world.users["ann"]))
            wrong = {"canary-wrong-password-1c", "gp_canary-wrong-token-2d", "gl_canary-wrong-ticket-3e"}
            await self._use(world, ticket, *sorted(wrong))
            for token in (ticket, *sorted(wrong), *world.tokens.values()):
                if token.startswith(("gp_", "gl_", "ey")):
                    await self._misplace(world, token)
            logins = {token for who, token in world.tokens.items() if who != "visitor"}
            secrets = {PASSWORD, SECRET_KEY, VISITOR_TOKEN, ticket, HASH, *wrong, *logins}
            events = json.dumps(audit(world.server.data_dir))
            lines = "\n".join(process.command for process in all_processes().values())
            kept = [file.read_bytes() for file in world.server.data_dir.glob("gatepost.db*")]
            assert kept
            assert "login_failed" in events
            assert "/api/[masked]/executions" in events, "the path of a rejected request"
            for secret in sorted(secrets):
                assert secret not in world.server.logs, "in the logs"
                assert secret not in events, "in the audit"
                assert secret not in lines, "in the list of processes"
                assert secret == HASH or not any(secret.encode() in data for data in kept), "in the database"

    async def _use(self, world: World, ticket: str, password: str, token: str, wrong_ticket: str) -> None:
        """Show every secret, right and wrong, on every way in."""
        login(world.server, "ann")
        login(world.server, "ann", password)
        for each in (ticket, wrong_ticket):
            _take(world.server.url, each)
        for who in [*world.tokens, token]:
            world.ask(who, "GET", "/api/auth/me")
            world.ask(who, "POST", "/api/executions", {"command": "pwd"})
            world.ask(None, "GET", f"/api/auth/me?token={world.tokens.get(who, who)}")
            async with terminal(world.server, greeted=False, additional_headers=world.headers(None)) as client:
                await client.send(type="auth", token=world.tokens.get(who, who))
                await client.receive()
        world.ask(None, "POST", "/api/auth/token", content=f"username=ann&password={password}%zz")
        world.execute("ann", "pyguard ps -ef")

    async def _misplace(self, world: World, token: str) -> None:
        """Put a token where none belongs."""
        for path in (f"/api/{token}/executions", f"/api/{'x' * 170}/{token}", f"/api/x?y={token}", f"/{token}"):
            world.ask(None, "GET", path)
            world.ask("ann", "GET", path)
        shown = {"Origin": f"https://{token}.example", "User-Agent": token, "X-Forwarded-For": token}
        world.ask(None, "GET", "/api/auth/me", headers=shown)
        with suppress(InvalidStatus):
            async with connect(world.server.ws_url, additional_headers=shown, user_agent_header=None):
                pass
        with suppress(httpx.HTTPError):
            world.ask("ann", token, "/api/executions")
        for body in ({"command": f"nosuch {token}"}, {"command": "pwd", "target": f"machine:{token}"}):
            world.ask("ann", "POST", "/api/executions", body)
        world.ask("ann", "POST", "/api/executions", {"command": "pwd", "project_id": token})
        world.ask("ann", "POST", "/api/projects", {"name": "A", "profile": token})
        world.ask("ann", "PATCH", f"/api/projects/{token}", {"name": token})
        login(world.server, token[:64], "x")

    def test_a_first_start_prints_one_link_on_standard_error_only(self, start_server: StartServer) -> None:
        server = start_server(ROOMY)
        wait_until(lambda: "is ready" in server.stderr, "its welcome")
        found = re.findall(r"gl_[A-Za-z0-9_-]{43}", server.stderr)
        assert len(found) == 1
        assert "gl_" not in server.stdout
        assert _take(server.url, found[0]).status_code == 200
        assert _take(server.url, found[0]).status_code == 401
