"""Which clients may connect, and as which principal: address, origin, connections, token. For all web fronts."""

import hmac
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from backend.core.audit.events import Kind
from backend.core.client_address import LOOPBACK_NAMES, client_address, foreign_origin, origin_allowed
from backend.core.decisions import Decision, Risk
from backend.core.errors import StorageError
from backend.core.figures import duration_text
from backend.core.identity import Principal
from backend.core.limits import RateLimiter
from backend.core.ports import AuditLog, Authenticator

Scope = Mapping[str, Any]


def headers_of(scope: Scope, name: bytes) -> list[str]:
    """All values of a header, in order."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


@dataclass(slots=True)
class Connections:
    """The open sockets, per address and in total."""

    per_address: int
    total: int
    open: Counter[str] = field(default_factory=Counter)

    def enter(self, address: str) -> bool:
        """Count a new socket; False if there are too many."""
        if self.open[address] >= self.per_address or self.count >= self.total:
            return False
        self.open[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Count a socket that has closed."""
        self.open[address] -= 1
        if not self.open[address]:
            del self.open[address]

    @property
    def count(self) -> int:
        return self.open.total()


@dataclass(frozen=True, slots=True)
class Rejections:
    """Records invalid requests in the audit; of a flood from one address, as many as `rate` allows."""

    audit: AuditLog
    rate: RateLimiter

    async def record(self, actor: str, address: str, **what: str | int) -> None:
        """Record one; never raises, since the request is refused in any case."""
        with suppress(StorageError):
            if not await self.rate.hit(address):
                await self.audit.record(Kind.REJECTED, actor, address, what)


@dataclass(slots=True)
class Security:
    """The checks before a request reaches the gateway.

    A client without a token is a visitor, if `visitors` are admitted; with `visitor_token` set it must present that.
    """

    connections: Connections
    allowed_origins: tuple[str, ...]
    trusted_hops: int
    visitors: bool
    visitor_token: str | None
    authenticator: Authenticator
    token_failures: RateLimiter
    new_id: Callable[[], str]

    def visitor(self, scope: Scope) -> Principal:
        """The principal of a connection until it presents a token."""
        return Principal(f"visitor:{self.new_id()}", self.address(scope))

    def address(self, scope: Scope) -> str:
        """The address of the client, behind the trusted proxies."""
        peer = scope["client"][0] if scope.get("client") else "unknown"
        return client_address(peer, headers_of(scope, b"x-forwarded-for"), self.trusted_hops)

    def check_origin(self, scope: Scope) -> Decision | None:
        """Refuse a socket that a page of another origin opens."""
        origins, hosts = headers_of(scope, b"origin"), headers_of(scope, b"host")
        local = scope["server"][0] if scope.get("server") else None
        loopback = local in LOOPBACK_NAMES and not self.trusted_hops
        if len(origins) <= 1 and len(hosts) == 1:
            origin = origins[0] if origins else None
            if origin_allowed(origin, hosts[0], self.allowed_origins, loopback=loopback):
                return None
        return foreign_origin(origins, hosts)

    def refuse_connection(self, address: str) -> Decision | None:
        """Count a new socket of an address; refuse it if there are too many."""
        if self.connections.enter(address):
            return None
        reason = (
            f"Too many connections: {self.connections.per_address} of an address, {self.connections.total} in total."
        )
        return Decision.deny("limits.connections", reason, "Close one.", risk=Risk.SAFE)

    def bearer(self, scope: Scope) -> str | None:
        """The token in the Authorization header."""
        for value in headers_of(scope, b"authorization"):
            kind, _, token = value.partition(" ")
            if kind.lower() == "bearer":
                return token.strip()
        return None

    async def identify(self, token: str | None, visitor: Principal) -> Principal | Decision:
        """The principal of `token`: an account, or `visitor` if visitors are admitted. Raises StorageError."""
        if token is None:
            if self.visitors and self.visitor_token is None:
                return visitor
            return _unauthorised("auth.required", "This server requires a token.")
        # An account's token is too long to be guessed; its holder is not locked out by other clients at its address.
        if principal := await self.authenticator.principal(token, visitor.address):
            return principal
        if wait := await self.token_failures.wait(f"token:{visitor.address}"):
            reason = f"Too many invalid tokens from this address; wait {duration_text(round(wait + 0.5))}."
            return Decision.deny("auth.limited", reason, risk=Risk.SAFE, retry_after=wait)
        if self._is_visitor_token(token):
            return visitor
        await self.token_failures.hit(f"token:{visitor.address}")
        return _unauthorised("auth.wrong", "The token is invalid, expired or revoked.")

    def _is_visitor_token(self, token: str) -> bool:
        expected = self.visitor_token
        return self.visitors and expected is not None and hmac.compare_digest(token.encode(), expected.encode())


def _unauthorised(rule: str, reason: str) -> Decision:
    hint = 'Send it as \'Authorization: Bearer ...\' or as the first message, {"type":"auth","token":"..."}.'
    return Decision.deny(rule, reason, hint, risk=Risk.SAFE)
