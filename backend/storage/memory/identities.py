"""Accounts, their API tokens and login links, and revoked access tokens, in memory."""

from collections.abc import Callable, Iterable
from dataclasses import field

from backend.core.dataclasses import dataclass, replace
from backend.core.identity import PROFILE, USER_NAME, ApiToken, Permission, Role, User, scopes_of, scopes_text
from backend.core.ids import as_id
from backend.storage.identities import NAME_RULE, NO_USER, checked_name


@dataclass(slots=True)
class MemoryIdentities:
    """The accounts and their credentials; see `SqlIdentities`. Times are Unix milliseconds."""

    now_ms: Callable[[], int]
    new_id: Callable[[], str]
    _users: dict[str, User] = field(default_factory=dict)
    _passwords: dict[str, str | None] = field(default_factory=dict)
    _tokens: dict[str, ApiToken] = field(default_factory=dict)
    _secrets: dict[bytes, str] = field(default_factory=dict)  # the ids of API tokens by the hash of their secret
    _revoked: dict[str, int] = field(default_factory=dict)  # the ends of access tokens by their jti
    _links: dict[bytes, tuple[str, int]] = field(default_factory=dict)  # users and ends by the hash of the secret

    async def add_user(
        self, name: str, role: Role, profile: str = PROFILE, password_hash: str | None = None
    ) -> User | None:
        """Add an account; None when the name is taken. Raises ValueError for a name that no account may have."""
        if not USER_NAME.fullmatch(name):
            raise ValueError(NAME_RULE)
        now, profile = self.now_ms(), checked_name(profile)
        if await self.user_named(name):
            return None
        user = User(self.new_id(), name, role, profile, False, now, now)
        self._users[user.id], self._passwords[user.id] = user, password_hash
        return user

    async def user(self, id: str) -> User | None:
        """The account with this id."""
        return self._users.get(id)

    async def user_named(self, name: str) -> User | None:
        """The account with this name."""
        return next((user for user in self._users.values() if user.name == name), None)

    async def names_of(self, ids: Iterable[str]) -> dict[str, str]:
        """The names of accounts by their ids; unknown ids are omitted."""
        return {id: self._users[id].name for id in ids if id in self._users}

    async def ids_of(self, names: Iterable[str]) -> dict[str, str]:
        """The ids of accounts by their names; unknown names are omitted."""
        wanted = set(names)
        return {user.name: user.id for user in self._users.values() if user.name in wanted}

    async def users(self) -> list[User]:
        """All accounts, by name."""
        return sorted(self._users.values(), key=lambda user: user.name)

    async def password_hash_of(self, name: str) -> tuple[User, str | None] | None:
        """The account and the hash of its password, None if it has none; None if no account has this name."""
        user = await self.user_named(name)
        return (user, self._passwords[user.id]) if user else None

    async def set_password(self, user_id: str, password_hash: str) -> bool:
        """Set the password, and end the access tokens issued before; False if there is no such account."""
        if user := self._users.get(user_id):
            self._passwords[user_id] = password_hash
            self._users[user_id] = replace(user, valid_from_ms=max(self.now_ms(), user.valid_from_ms + 1))
        return user is not None

    async def set_disabled(self, user_id: str, disabled: bool) -> bool:
        """Disable or enable an account; either ends older access tokens. False when there is no such account."""
        if user := self._users.get(user_id):
            self._users[user_id] = replace(
                user, disabled=disabled, valid_from_ms=max(self.now_ms(), user.valid_from_ms + 1)
            )
        return user is not None

    async def set_role(self, user_id: str, role: Role) -> bool:
        """Change the role of an account; this takes effect at once. False when there is no such account."""
        if user := self._users.get(user_id):
            self._users[user_id] = replace(user, role=role)
        return user is not None

    async def revoke(self, jti: str, expires_ms: int) -> None:
        """End an access token before its time; it is forgotten when it would have ended by itself."""
        self._revoked.setdefault(jti, expires_ms)

    async def is_revoked(self, token_id: str) -> bool:
        """Whether an access token, by its jti, or an API token, by its id, was revoked."""
        token = self._tokens.get(token_id)
        return token_id in self._revoked or (token is not None and token.revoked_ms is not None)

    async def holder(self, user_id: str, token_id: str) -> User | None:
        """The account with this id; None too if the token with that id, as in `is_revoked`, was revoked."""
        return None if await self.is_revoked(token_id) else await self.user(user_id)

    async def forget_expired(self) -> None:
        """Delete what ended by itself: revoked access tokens and login links."""
        now = self.now_ms()
        self._revoked = {jti: ends for jti, ends in self._revoked.items() if ends > now}
        self._links = {secret: link for secret, link in self._links.items() if link[1] > now}

    async def add_token(
        self, user_id: str, name: str, scopes: Iterable[Permission], secret_hash: bytes, expires_ms: int | None
    ) -> ApiToken:
        """Add an API token. Raises ValueError for an invalid name, no scopes, or an unknown user."""
        granted = scopes_of(scopes_text(scopes))
        owner, name = self._known(user_id), checked_name(name)
        token = ApiToken(self.new_id(), owner.id, name, granted, self.now_ms(), expires_ms, None)
        self._tokens[token.id], self._secrets[secret_hash] = token, token.id
        return token

    def _known(self, user_id: str) -> User:
        user = self._users.get(as_id(user_id))
        if user is None:
            raise ValueError(NO_USER)
        return user

    async def tokens(self, user_id: str | None = None) -> list[ApiToken]:
        """The API tokens of an account, or all; the oldest first, including ended ones."""
        found = (token for token in self._tokens.values() if user_id in (None, token.user_id))
        return sorted(found, key=lambda token: (token.created_ms, token.id))

    async def token_by_secret(self, secret_hash: bytes) -> tuple[ApiToken, User] | None:
        """The API token with this secret and its account; None when it ended or the account is disabled."""
        token = self._tokens.get(self._secrets.get(secret_hash, ""))
        if token is None or token.revoked_ms is not None or (token.expires_ms or self.now_ms() + 1) <= self.now_ms():
            return None
        owner = self._users[token.user_id]
        return None if owner.disabled else (token, owner)

    async def revoke_token(self, id: str) -> bool:
        """End an API token; False when there is none with this id, or it was revoked before."""
        token = self._tokens.get(id)
        if token is None or token.revoked_ms is not None:
            return False
        self._tokens[id] = replace(token, revoked_ms=self.now_ms())
        return True

    async def add_link(self, secret_hash: bytes, user_id: str, expires_ms: int) -> None:
        """Add a login link. Raises ValueError for an unknown user."""
        self._links[secret_hash] = self._known(user_id).id, expires_ms

    async def take_link(self, secret_hash: bytes) -> User | None:
        """Redeem a login link: returns its account the first time and before it expires, otherwise None."""
        user_id, expires_ms = self._links.pop(secret_hash, ("", 0))
        user = self._users.get(user_id)
        return user if user and not user.disabled and expires_ms > self.now_ms() else None
