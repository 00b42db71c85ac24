"""Accounts, tokens and links: in memory and on both databases."""

import asyncio

import pytest

from backend.core.identity import Permission, Role, User
from backend.storage.identities import SqlIdentities
from backend.storage.memory.identities import MemoryIdentities
from tests.storage.conftest import START, Clock

Identities = SqlIdentities | MemoryIdentities

BAD_IDS = ["", "nobody", "x" * 300, "a\0b", "ä", "'; drop table users; --"]
BOTH = frozenset({Permission.READ, Permission.EXECUTE})


async def added(identities: Identities, name: str = "ann", role: Role = Role.OPERATOR) -> User:
    user = await identities.add_user(name, role, password_hash="a hash")
    assert user
    return user


async def test_an_account_is_found_by_id_and_name(identities: Identities) -> None:
    ann = await added(identities)
    assert ann == User(ann.id, "ann", Role.OPERATOR, "agent", False, START, START)
    assert await identities.user(ann.id) == ann
    assert await identities.user_named("ann") == ann
    assert await identities.password_hash_of("ann") == (ann, "a hash")


async def test_a_name_is_given_once(identities: Identities) -> None:
    ann = await added(identities)
    assert await identities.add_user("ann", Role.ADMIN) is None
    both = await asyncio.gather(*(identities.add_user("bob", Role.VIEWER) for _ in range(2)))
    assert sum(user is not None for user in both) == 1
    assert [user.name for user in await identities.users()] == ["ann", "bob"]
    assert await identities.user(ann.id) == ann


async def test_many_are_found_at_once_by_id_or_name(identities: Identities) -> None:
    ann, bob = await added(identities), await added(identities, "bob")
    assert await identities.names_of([ann.id, bob.id, ann.id, *BAD_IDS]) == {ann.id: "ann", bob.id: "bob"}
    assert await identities.ids_of(["bob", "ann", "bob", "Ann", "ann ", *BAD_IDS]) == {"ann": ann.id, "bob": bob.id}
    assert await identities.names_of([]) == await identities.ids_of([]) == {}


@pytest.mark.parametrize("name", ["", "Ann", "-ann", "a b", "a\n", "a\0", "ä", "x" * 65, "../etc"])
async def test_a_malformed_name_is_refused(identities: Identities, name: str) -> None:
    with pytest.raises(ValueError):
        await identities.add_user(name, Role.VIEWER)
    assert await identities.user_named(name) is None
    assert await identities.users() == []


@pytest.mark.parametrize("id", BAD_IDS)
async def test_what_nobody_has_is_not_found(identities: Identities, id: str) -> None:
    ann = await added(identities)
    assert await identities.user(id) is None
    assert await identities.user_named(id) is None
    assert await identities.tokens(id) == []
    assert not await identities.is_revoked(id)
    assert not await identities.revoke_token(id)
    assert not await identities.set_password(id, "other")
    assert not await identities.set_disabled(id, True)
    assert not await identities.set_role(id, Role.ADMIN)
    with pytest.raises(ValueError, match="no such user"):
        await identities.add_token(id, "ci", BOTH, b"s" * 32, None)
    with pytest.raises(ValueError, match="no such user"):
        await identities.add_link(b"s" * 32, id, START)
    assert await identities.users() == [ann]


async def test_a_new_password_ends_older_tokens(identities: Identities, clock: Clock) -> None:
    ann = await added(identities)
    clock.now += 5000
    assert await identities.set_password(ann.id, "another")
    found = await identities.password_hash_of("ann")
    assert found
    assert found[0].valid_from_ms == START + 5000
    assert found[1] == "another"


async def test_disabling_and_enabling_end_older_tokens(identities: Identities, clock: Clock) -> None:
    ann = await added(identities)
    for disabled in (True, False):
        clock.now += 1000
        assert await identities.set_disabled(ann.id, disabled)
        found = await identities.user(ann.id)
        assert found
        assert (found.disabled, found.valid_from_ms) == (disabled, clock.now)


async def test_a_role_changes_and_nothing_else(identities: Identities) -> None:
    ann, bob = await added(identities), await added(identities, "bob")
    await identities.set_role(ann.id, Role.ADMIN)
    assert [user.role for user in await identities.users()] == [Role.ADMIN, Role.OPERATOR]
    assert await identities.user(bob.id) == bob


async def test_a_revoked_token_is_forgotten_when_it_ended(identities: Identities, clock: Clock) -> None:
    for _ in range(2):
        await identities.revoke("jti", START + 1000)
    assert await identities.is_revoked("jti")
    await identities.forget_expired()
    assert await identities.is_revoked("jti")
    clock.now += 1000
    await identities.forget_expired()
    assert not await identities.is_revoked("jti")


async def test_an_account_is_the_holder_of_a_token_until_it_is_revoked(identities: Identities) -> None:
    ann, bob = await added(identities), await added(identities, "bob")
    api = [await identities.add_token(ann.id, "ci", BOTH, secret, None) for secret in (b"s" * 32, b"t" * 32)]
    tokens = [*(token.id for token in api), "jti", "other"]
    await identities.revoke_token(api[0].id)
    await identities.revoke("jti", START + 1000)
    assert [await identities.holder(ann.id, token) for token in tokens] == [None, ann, None, ann]
    for bad in BAD_IDS:
        assert await identities.holder(ann.id, bad) == ann
        assert await identities.holder(bad, bob.id) is None


async def test_a_token_is_found_by_its_secret(identities: Identities) -> None:
    ann, bob = await added(identities), await added(identities, "bob")
    token = await identities.add_token(ann.id, " ci ", BOTH, b"s" * 32, None)
    other = await identities.add_token(bob.id, "ci", [Permission.READ], b"t" * 32, START + 1)
    assert (token.name, token.scopes, token.expires_ms, token.revoked_ms) == ("ci", BOTH, None, None)
    assert await identities.token_by_secret(b"s" * 32) == (token, ann)
    assert await identities.token_by_secret(b"u" * 32) is None
    assert await identities.tokens() == [token, other]
    assert await identities.tokens(bob.id) == [other]


async def test_a_token_ends_when_it_is_revoked(identities: Identities) -> None:
    token = await identities.add_token((await added(identities)).id, "ci", BOTH, b"s" * 32, None)
    assert not await identities.is_revoked(token.id)
    assert await identities.revoke_token(token.id)
    assert not await identities.revoke_token(token.id)
    assert await identities.token_by_secret(b"s" * 32) is None
    assert await identities.is_revoked(token.id)
    assert [token.revoked_ms for token in await identities.tokens()] == [START]


async def test_a_token_ends_with_its_time(identities: Identities, clock: Clock) -> None:
    await identities.add_token((await added(identities)).id, "ci", BOTH, b"s" * 32, START + 10)
    clock.now += 9
    assert await identities.token_by_secret(b"s" * 32)
    clock.now += 1
    assert await identities.token_by_secret(b"s" * 32) is None


async def test_the_token_of_a_disabled_account_does_not_count(identities: Identities) -> None:
    ann = await added(identities)
    await identities.add_token(ann.id, "ci", BOTH, b"s" * 32, None)
    await identities.set_disabled(ann.id, True)
    assert await identities.token_by_secret(b"s" * 32) is None


@pytest.mark.parametrize(("name", "scopes"), [("", BOTH), ("a\nb", BOTH), ("x" * 65, BOTH), ("ci", frozenset())])
async def test_a_token_needs_a_name_and_scopes(
    identities: Identities, name: str, scopes: frozenset[Permission]
) -> None:
    ann = await added(identities)
    with pytest.raises(ValueError):
        await identities.add_token(ann.id, name, scopes, b"s" * 32, None)


async def test_one_of_two_takes_a_link(identities: Identities) -> None:
    ann = await added(identities)
    for number in range(20):
        await identities.add_link(bytes([number]) * 32, ann.id, START + 1)
        taken = await asyncio.gather(*(identities.take_link(bytes([number]) * 32) for _ in range(4)))
        assert sorted(taken, key=lambda user: user is None) == [ann, None, None, None]


async def test_a_link_ends_with_its_time(identities: Identities, clock: Clock) -> None:
    ann = await added(identities)
    await identities.add_link(b"l" * 32, ann.id, START + 10)
    await identities.add_link(b"m" * 32, ann.id, START + 11)
    clock.now += 10
    assert await identities.take_link(b"l" * 32) is None
    await identities.forget_expired()
    assert await identities.take_link(b"m" * 32) == ann


async def test_a_disabled_account_cannot_use_its_link(identities: Identities) -> None:
    ann = await added(identities)
    await identities.add_link(b"l" * 32, ann.id, START + 10)
    await identities.set_disabled(ann.id, True)
    assert await identities.take_link(b"l" * 32) is None
