"""From tokens to principals: the one judge of tokens, for REST and WebSocket alike."""

from collections.abc import Callable

from backend.accounts.credentials import API_TOKEN_PREFIX, LONGEST_TOKEN, Tokens, secret_hash
from backend.core.identity import Claims, Permission, Principal, User
from backend.core.ports import Identities


class Authenticator:
    """Judges access tokens and API tokens. Raises StorageError when the database cannot be asked."""

    def __init__(
        self, identities: Identities, tokens: Tokens, now_ms: Callable[[], int], monotonic: Callable[[], float]
    ) -> None:
        self._identities = identities
        self._tokens = tokens
        self._now_ms = now_ms
        self._monotonic = monotonic

    async def principal(self, bearer: str, address: str) -> Principal | None:
        """The principal of this token at this address; None when it is invalid, expired or revoked."""
        if len(bearer) > LONGEST_TOKEN:
            return None
        if bearer.startswith(API_TOKEN_PREFIX):
            return await self._of_api_token(bearer, address)
        claims = self._tokens.verify(bearer)
        return await self._of_claims(claims, address) if claims else None

    async def _of_api_token(self, bearer: str, address: str) -> Principal | None:
        found = await self._identities.token_by_secret(secret_hash(bearer))
        if found is None:
            return None
        token, user = found
        permissions = user.role.permissions & token.scopes
        return self._principal(user, address, permissions, token.id, token.expires_ms)

    async def _of_claims(self, claims: Claims, address: str) -> Principal | None:
        user = await self._identities.holder(claims.user_id, claims.token_id)
        if user is None or user.disabled or not _is_recent(claims, user):
            return None
        return self._principal(user, address, user.role.permissions, claims.token_id, claims.expires_at * 1000)

    def _principal(
        self, user: User, address: str, permissions: frozenset[Permission], token: str, expires_ms: int | None
    ) -> Principal:
        left = None if expires_ms is None else (expires_ms - self._now_ms()) / 1000
        ends = None if left is None else self._monotonic() + left
        return Principal(f"user:{user.name}", address, permissions, user, token, expires_ms, ends)

    async def is_valid(self, principal: Principal) -> bool:
        """Whether a principal is still valid, asked periodically for a socket that stays open.

        It does not when its token ended or was revoked, and when anything of its account changed: the rights it got
        at the beginning are then no longer those of the account. Visitors are always valid.
        """
        if principal.user is None or principal.token is None:
            return True
        if self._has_expired(principal):
            return False
        user = await self._identities.holder(principal.user.id, principal.token)
        return user == principal.user and not principal.user.disabled

    def _has_expired(self, principal: Principal) -> bool:
        """By either clock: that of the machine may have been set back, and the monotonic one stops while it sleeps."""
        if principal.ends is not None and principal.ends <= self._monotonic():
            return True
        return principal.token_expires_ms is not None and principal.token_expires_ms <= self._now_ms()


def _is_recent(claims: Claims, user: User) -> bool:
    """Whether it was issued since the account's tokens were last ended.

    A token says when that was, and times are not compared: a clock that is set back would refuse every new token until it
    is as late again. One of an earlier version, which lasts a day at most, has only `iat`, in whole seconds.
    """
    if claims.valid_from_ms is None:
        return claims.issued_at >= user.valid_from_ms // 1000
    return claims.valid_from_ms == user.valid_from_ms
