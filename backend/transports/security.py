"""Which clients may connect, and as which principal: address, origin, connections, token. For all web fronts."""

import hmac
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import field
from enum import Enum, auto
from typing import Any

from backend.core.audit.events import Kind
from backend.core.client_address import (
    OwnNames,
    any_name,
    client_address,
    foreign_name,
    foreign_origin,
    is_loopback,
    names_of_machine,
    origin_allowed,
)
from backend.core.dataclasses import dataclass
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


class Seat(Enum):
    """What an open socket counts as. One that `LOGS_IN` has not shown yet whether it is of an account."""

    LOGS_IN = auto()
    VISITOR = auto()
    ACCOUNT = auto()


@dataclass(slots=True)
class Connections:
    """The open sockets, per address and in total. Visitors leave `reserved` places to accounts.

    Half of those are for sockets that may still present a token, the rest for those that came with one.
    """

    per_address: int
    total: int
    reserved: int = 0
    open: Counter[str] = field(default_factory=Counter)
    visitors: int = 0

    def enter(self, address: str, *, has_token: bool) -> bool:
        """Count a new socket; False if there are too many."""
        total = self.total if has_token else self.total - self.reserved // 2
        if self.open[address] >= self.per_address or self.count >= total:
            return False
        self.open[address] += 1
        return True

    def take(self, before: Seat, account: bool) -> Seat | None:
        """The seat of a socket once it is known whether it is of an `account`; None if visitors have no more."""
        if account:
            self.visitors -= before is Seat.VISITOR
            return Seat.ACCOUNT
        if before is not Seat.LOGS_IN:
            return before
        if self.visitors >= self.total - self.reserved:
            return None
        self.visitors += 1
        return Seat.VISITOR

    def give_up(self, seat: Seat) -> Seat:
        """Free the seat of a socket that is about to close, so that no other has to make room as well."""
        self.visitors -= seat is Seat.VISITOR
        return Seat.LOGS_IN

    def leave(self, address: str, seat: Seat) -> None:
        """Count a socket that has closed."""
        self.give_up(seat)
        self.open[address] -= 1
        if not self.open[address]:
            del self.open[address]

    @property
    def count(self) -> int:
        return self.open.total()

    @property
    def crowded(self) -> bool:
        """Whether visitors have taken half of their places."""
        return self.visitors * 2 >= self.total - self.reserved


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
    visitor_idle: float = 300.0
    host_names: frozenset[str] = frozenset()

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
        if len(origins) <= 1 and len(hosts) == 1:
            origin = origins[0] if origins else None
            if origin_allowed(origin, hosts[0], self.allowed_origins, self._own_names(scope)):
                return None
            if origin_allowed(origin, hosts[0], self.allowed_origins, any_name):
                return foreign_name(hosts[0])
        return foreign_origin(origins, hosts)

    def _own_names(self, scope: Scope) -> OwnNames:
        """The names by which a browser may have reached the server. No page can write X-Forwarded-For; proxies do."""
        local = scope["server"][0] if scope.get("server") else None
        proxied = self.trusted_hops or (headers_of(scope, b"x-forwarded-for") and not is_loopback(local))
        return any_name if proxied else names_of_machine(self.host_names)

    def refuse_connection(self, scope: Scope, address: str) -> Decision | None:
        """Count a new socket of an address; refuse it if there are too many."""
        if self.connections.enter(address, has_token=self.bearer(scope) is not None):
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

    def take_seat(self, seat: Seat, known: Principal) -> Seat | Decision:
        """The seat of a socket whose principal is known, or why it has none."""
        taken = self.connections.take(seat, account=known.user is not None)
        if taken:
            return taken
        reason = "All connections for visitors are in use."
        return Decision.deny("limits.connections", reason, "Log in, or try again later.", risk=Risk.SAFE)

    def is_idle(self, seat: Seat, seconds: float) -> bool:
        """Whether a visitor that has not run anything for so long has to make room."""
        return seat is Seat.VISITOR and seconds >= self.visitor_idle and self.connections.crowded

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
