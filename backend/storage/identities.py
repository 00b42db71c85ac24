"""Accounts, their API tokens and login links, and the access tokens that were revoked before their time."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    case,
    delete,
    exists,
    insert,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from backend.core.identity import PROFILE, USER_NAME, ApiToken, Permission, Role, User, scopes_of, scopes_text
from backend.core.ids import as_id
from backend.storage.database import Database, changes, first, rows
from backend.storage.tables import api_tokens, login_links, revoked_tokens, users

LONGEST_NAME = 64  # characters of the name of a token or profile
NAME_RULE = "a user name must have 1 to 64 of a-z 0-9 . _ - and begin with a letter or digit"
NO_USER = "there is no such user"

OWNER = select(users).where(users.c.id == bindparam("user"))
ACCOUNT = tuple(field.name for field in fields(User))
TOKEN = (
    select(api_tokens, *(users.c[name].label(f"owner_{name}") for name in ACCOUNT))
    .join(users)
    .where(api_tokens.c.secret_hash == bindparam("secret"))
)
REVOKED = or_(
    exists().where(revoked_tokens.c.jti == bindparam("token")),
    exists().where(api_tokens.c.id == bindparam("token"), api_tokens.c.revoked_ms.is_not(None)),
)
HOLDER = OWNER.where(not_(REVOKED))


def checked_name(name: str, longest: int = LONGEST_NAME) -> str:
    """The name without surrounding blanks. Raises ValueError if it is empty, too long or not printable."""
    name = name.strip()
    if not (0 < len(name) <= longest and name.isprintable()):
        raise ValueError(f"a name must have 1 to {longest} printable characters")
    return name


@contextmanager
def known_users() -> Iterator[None]:
    """Turn the refusal of an unknown user id by the database into a ValueError."""
    try:
        yield
    except IntegrityError:
        raise ValueError(NO_USER) from None


class SqlIdentities:
    """The accounts and their credentials. Times are Unix milliseconds. Every method raises StorageError."""

    def __init__(self, database: Database, now_ms: Callable[[], int], new_id: Callable[[], str]) -> None:
        self._database = database
        self._now_ms = now_ms
        self._new_id = new_id

    async def add_user(
        self, name: str, role: Role, profile: str = PROFILE, password_hash: str | None = None
    ) -> User | None:
        """Add an account; None when the name is taken. Raises ValueError for a name that no account may have."""
        if not USER_NAME.fullmatch(name):
            raise ValueError(NAME_RULE)
        now = self._now_ms()
        user = User(self._new_id(), name, role, checked_name(profile), False, now, now)
        row = {each: getattr(user, each) for each in User.__slots__}
        try:
            await self._database.write(changes(insert(users).values(**row, password_hash=password_hash)))
        except IntegrityError:
            return None
        return user

    async def user(self, id: str) -> User | None:
        """The account with this id."""
        found = await self._database.read_short(OWNER, user=as_id(id))
        return _user(found[0]) if found else None

    async def user_named(self, name: str) -> User | None:
        """The account with this name."""
        found = await self.password_hash_of(name)
        return found[0] if found else None

    async def names_of(self, ids: Iterable[str]) -> dict[str, str]:
        """The names of accounts by their ids; unknown ids are omitted."""
        return await self._pairs(select(users.c.id, users.c.name).where(users.c.id.in_(set(map(as_id, ids)))))

    async def ids_of(self, names: Iterable[str]) -> dict[str, str]:
        """The ids of accounts by their names; unknown names are omitted."""
        known = {name for name in names if USER_NAME.fullmatch(name)}
        return await self._pairs(select(users.c.name, users.c.id).where(users.c.name.in_(known)))

    async def _pairs(self, query: Select[str, str]) -> dict[str, str]:
        return await self._database.read(lambda connection: dict(connection.execute(query).all()))

    async def users(self) -> list[User]:
        """All accounts, by name."""
        return list(map(_user, await self._database.read(rows(select(users).order_by(users.c.name)))))

    async def password_hash_of(self, name: str) -> tuple[User, str | None] | None:
        """The account and the hash of its password, None if it has none; None if no account has this name."""
        if not USER_NAME.fullmatch(name):  # PostgreSQL rejects some strings even in a query
            return None
        row = await self._database.read(first(select(users).where(users.c.name == name)))
        return (_user(row), row.password_hash) if row else None

    async def set_password(self, user_id: str, password_hash: str) -> bool:
        """Set the password, and end the access tokens issued before; False if there is no such account."""
        return await self._change(user_id, password_hash=password_hash, valid_from_ms=self._later())

    async def set_disabled(self, user_id: str, disabled: bool) -> bool:
        """Disable or enable an account; either ends older access tokens. False when there is no such account."""
        return await self._change(user_id, disabled=disabled, valid_from_ms=self._later())

    async def set_role(self, user_id: str, role: Role) -> bool:
        """Change the role of an account; this takes effect at once. False when there is no such account."""
        return await self._change(user_id, role=role)

    def _later(self) -> ColumnElement[int]:
        """Now, but later than before even if the clock was set back: tokens are of one `valid_from_ms`."""
        now, before = self._now_ms(), users.c.valid_from_ms
        return case((before >= now, before + 1), else_=now)

    async def _change(self, user_id: str, **values: Any) -> bool:
        change = update(users).where(users.c.id == as_id(user_id)).values(**values)
        return await self._database.write(changes(change)) == 1

    async def revoke(self, jti: str, expires_ms: int) -> None:
        """End an access token before its time; it is forgotten when it would have ended by itself."""
        with suppress(IntegrityError):  # revoked already
            await self._database.write(changes(insert(revoked_tokens).values(jti=jti, expires_ms=expires_ms)))

    async def is_revoked(self, token_id: str) -> bool:
        """Whether an access token, by its jti, or an API token, by its id, was revoked."""
        return await self._database.read(first(select(1).where(REVOKED), token=as_id(token_id))) is not None

    async def holder(self, user_id: str, token_id: str) -> User | None:
        """The account with this id; None too if the token with that id, as in `is_revoked`, was revoked."""
        row = await self._database.read(first(HOLDER, user=as_id(user_id), token=as_id(token_id)))
        return _user(row) if row else None

    async def forget_expired(self) -> None:
        """Delete what ended by itself: revoked access tokens and login links."""
        await self._database.write(partial(_forget_expired, now=self._now_ms()))

    async def add_token(
        self, user_id: str, name: str, scopes: Iterable[Permission], secret_hash: bytes, expires_ms: int | None
    ) -> ApiToken:
        """Add an API token. Raises ValueError for an invalid name, no scopes, or an unknown user."""
        text = scopes_text(scopes)
        token = ApiToken(
            self._new_id(), as_id(user_id), checked_name(name), scopes_of(text), self._now_ms(), expires_ms, None
        )
        row = {each: getattr(token, each) for each in ApiToken.__slots__}
        with known_users():
            new = insert(api_tokens).values({**row, "scopes": text, "secret_hash": secret_hash})
            await self._database.write(changes(new))
        return token

    async def tokens(self, user_id: str | None = None) -> list[ApiToken]:
        """The API tokens of an account, or all; the oldest first, including ended ones."""
        query = select(api_tokens).order_by(api_tokens.c.created_ms, api_tokens.c.id)
        if user_id is not None:
            query = query.where(api_tokens.c.user_id == as_id(user_id))
        return list(map(_token, await self._database.read(rows(query))))

    async def token_by_secret(self, secret_hash: bytes) -> tuple[ApiToken, User] | None:
        """The API token with this secret and its account; None when it ended or the account is disabled."""
        for row in await self._database.read_short(TOKEN, secret=secret_hash):
            if self._counts(token := _token(row)) and not row.owner_disabled:
                return token, _owner(row)
        return None

    def _counts(self, token: ApiToken) -> bool:
        return token.revoked_ms is None and (token.expires_ms is None or token.expires_ms > self._now_ms())

    async def revoke_token(self, id: str) -> bool:
        """End an API token; False when there is none with this id, or it was revoked before."""
        standing = update(api_tokens).where(api_tokens.c.id == as_id(id), api_tokens.c.revoked_ms.is_(None))
        return await self._database.write(changes(standing.values(revoked_ms=self._now_ms()))) == 1

    async def add_link(self, secret_hash: bytes, user_id: str, expires_ms: int) -> None:
        """Add a login link. Raises ValueError for an unknown user."""
        link = {"secret_hash": secret_hash, "user_id": as_id(user_id), "expires_ms": expires_ms}
        with known_users():
            await self._database.write(changes(insert(login_links).values(link)))

    async def take_link(self, secret_hash: bytes) -> User | None:
        """Redeem a login link: returns its account the first time and before it expires, otherwise None."""
        return await self._database.write(partial(_take_link, secret_hash=secret_hash, now=self._now_ms()))


def _forget_expired(connection: Connection, now: int) -> None:
    connection.execute(delete(revoked_tokens).where(revoked_tokens.c.expires_ms <= now))
    connection.execute(delete(login_links).where(login_links.c.expires_ms <= now))


def _take_link(connection: Connection, secret_hash: bytes, now: int) -> User | None:
    taken = delete(login_links).where(login_links.c.secret_hash == secret_hash)
    link = connection.execute(taken.returning(login_links.c.user_id, login_links.c.expires_ms)).one_or_none()
    if link is None or link.expires_ms <= now:
        return None
    owner = connection.execute(OWNER, {"user": link.user_id}).one()
    return None if owner.disabled else _user(owner)


def _user(row: Any) -> User:
    return User(row.id, row.name, Role(row.role), row.profile, row.disabled, row.created_ms, row.valid_from_ms)


def _owner(row: Any) -> User:
    """The account of a token."""
    values = {name: getattr(row, f"owner_{name}") for name in ACCOUNT}
    return User(**{**values, "role": Role(row.owner_role)})


def _token(row: Any) -> ApiToken:
    scopes = scopes_of(row.scopes)
    return ApiToken(row.id, row.user_id, row.name, scopes, row.created_ms, row.expires_ms, row.revoked_ms)
