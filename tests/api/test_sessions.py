"""A login that is renewed, and the password that people set themselves."""

import time
from pathlib import Path

import httpx
import jwt

from tests.api.world import PASSWORD, World, access_token, accounts, address, new_link, running_world

NEW_PASSWORD = "another-password-of-ann-3f"


def by_link(world: World, name: str) -> str:
    """An access token from a login link."""
    ticket = accounts(world.server.data_dir, lambda identities: new_link(identities, world.users[name]))
    return str(world.ask(None, "POST", "/api/auth/link", {"ticket": ticket}).json()["access_token"])


def by_password(world: World, name: str, password: str) -> httpx.Response:
    form = {"username": name, "password": password}
    return httpx.post(
        f"{world.server.url}/api/auth/token", data=form, headers={"X-Forwarded-For": address()}, verify=False
    )


def works(world: World, token: str) -> bool:
    return world.ask(token, "GET", "/api/auth/me").status_code == 200


def test_a_renewed_token_works_and_revoking_it_ends_the_login(world: World) -> None:
    first = by_link(world, "cleo")
    answer = world.ask(first, "POST", "/api/auth/renew")
    assert answer.status_code == 200
    renewed = answer.json()["access_token"]
    assert 0 < answer.json()["expires_in"] <= 3600
    assert works(world, first)
    assert works(world, renewed)
    assert world.events(kind="login", method="renewal", actor="user:cleo")
    assert world.ask(first, "POST", "/api/auth/revoke").status_code == 204
    assert not works(world, renewed)
    assert world.ask(renewed, "POST", "/api/auth/renew").status_code == 401


def test_a_login_is_renewed_for_a_day_at_most(world: World) -> None:
    now = int(time.time())
    old = access_token(world.users["bob"], auth_time=now - 86_000, exp=now + 300)
    answer = world.ask(old, "POST", "/api/auth/renew").json()
    assert 300 < answer["expires_in"] <= 400
    claims = jwt.decode(answer["access_token"], options={"verify_signature": False})
    assert claims["exp"] == now - 86_000 + 86_400


def test_a_password_is_set_after_a_login_by_link_and_changed_with_the_current_one(tmp_path: Path) -> None:
    with running_world(tmp_path, {}) as world:
        token, other = by_link(world, "ann"), by_link(world, "ann")
        answer = world.ask(token, "POST", "/api/auth/password", {"password": NEW_PASSWORD})
        assert answer.status_code == 200
        now = answer.json()["access_token"]
        assert works(world, now)
        assert not works(world, token)
        assert not works(world, other)
        assert world.events(kind="user_changed", actor="user:ann", user="ann", change="password")
        assert by_password(world, "ann", PASSWORD).status_code == 401
        later = by_password(world, "ann", NEW_PASSWORD).json()["access_token"]

        body = {"password": "a third password"}
        for current in ({}, {"current": PASSWORD}):
            refused = world.ask(later, "POST", "/api/auth/password", {**body, **current})
            assert (refused.status_code, refused.json()["rule"]) == (403, "auth.password")
        assert len(world.events(kind="login_failed", actor="user:ann")) == 2
        body["current"] = NEW_PASSWORD
        assert world.ask(later, "POST", "/api/auth/password", body).status_code == 200
        assert by_password(world, "ann", "a third password").status_code == 200


def test_guessing_the_current_password_is_limited(world: World) -> None:
    token, origin = by_password(world, "bob", PASSWORD).json()["access_token"], address()
    headers = {"X-Forwarded-For": origin}
    body = {"password": "a password that is not set", "current": "guess"}
    answers = [world.ask(token, "POST", "/api/auth/password", body, headers=headers) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [403] * 10 + [429]
    assert answers[-1].json()["rule"] == "auth.limited"


def test_an_api_token_neither_lasts_longer_nor_sets_a_password(world: World) -> None:
    for path, body in (("renew", None), ("password", {"password": NEW_PASSWORD, "current": PASSWORD})):
        answer = world.ask("read", "POST", f"/api/auth/{path}", body)
        assert (answer.status_code, answer.json()["rule"]) == (403, "auth.session")
