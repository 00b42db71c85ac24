"""Login and logout: passwords and one-time links are exchanged for access tokens."""

from collections.abc import Callable
from dataclasses import field
from typing import Annotated, Protocol, TypeVar

from fastapi import APIRouter, Depends, Form, Request, Response
from pydantic import Field
from slowapi import Limiter

from backend.core.audit.events import Kind
from backend.core.dataclasses import dataclass
from backend.core.identity import LONGEST_PASSWORD, SHORTEST_PASSWORD, Claims, Permission, Principal, User
from backend.core.limits import RateLimiter
from backend.core.recent_logins import RecentLogins
from backend.core.times import DAY_MS
from backend.transports.dependencies import KNOWN_QUERY, Access, Answer, Body, FormOnly, JsonOnly
from backend.transports.problems import WITH_BODY, Problem, described
from backend.transports.routing import new_router

T = TypeVar("T")

BUSY = 3.0  # seconds after which all passwords that wait have been checked


class Accounts(Protocol):
    """The accounts, as far as a login needs them."""

    async def user(self, id: str) -> User | None: ...

    async def password_hash_of(self, name: str) -> tuple[User, str | None] | None: ...

    async def take_link(self, secret_hash: bytes) -> User | None: ...

    async def set_password(self, user_id: str, password_hash: str) -> bool: ...

    async def revoke(self, jti: str, expires_ms: int) -> None: ...

    async def revoke_token(self, id: str) -> bool: ...


class Passwords(Protocol):
    """The hashing of passwords, which takes long; None if too many requests wait for it."""

    async def hash(self, password: str) -> str | None: ...

    async def check(self, password: str, hashed: str | None, *, familiar: bool) -> bool | None: ...


class AccessTokens(Protocol):
    """The access tokens of people."""

    def issue(self, user: User, *, by_link: bool = False) -> tuple[str, Claims]: ...

    def renew(self, token: str) -> tuple[str, Claims] | None: ...

    def verify(self, token: str) -> Claims | None: ...


@dataclass(frozen=True, slots=True)
class Login:
    """What a login needs. `attempts` is counted for each address, `attempts_on_name` for each name.

    Of a name that no account has, only `name_digest` is stored: it may be a password that was typed in the wrong field.
    `recent` are those whose attempts others do not delay: they are not counted for the name, and served first.
    `link_command` is how an administrator creates a login link.
    """

    accounts: Accounts
    tokens: AccessTokens
    passwords: Passwords
    secret_hash: Callable[[str], bytes]
    name_digest: Callable[[str], str]
    attempts: RateLimiter
    attempts_on_name: RateLimiter
    link_command: str
    recent: RecentLogins = field(default_factory=RecentLogins)


class Token(Answer):
    """An access token. `expires_in` is in seconds."""

    access_token: str
    token_type: str = "bearer"
    expires_in: int


class LoginLink(Body):
    """The secret of a one-time login link."""

    ticket: str = Field(max_length=200)


class NewPassword(Body):
    """The password to set. `current` may be left out within 15 minutes of a login by link."""

    password: str = Field(min_length=SHORTEST_PASSWORD, max_length=LONGEST_PASSWORD)
    current: str = Field(default="", max_length=LONGEST_PASSWORD)


class Me(Answer):
    """The account behind a token."""

    id: str
    name: str
    role: str
    profile: str
    permissions: list[Permission]


def login_routes(access: Access, login: Login, limiter: Limiter, rate: str) -> APIRouter:
    """The routes under /api/auth."""
    router = new_router("login", "/api/auth")
    _add_login(router, access, login, limiter, rate)
    _add_session(router, access, login)
    _add_renewal(router, access, login)
    return router


def _add_login(router: APIRouter, access: Access, login: Login, limiter: Limiter, rate: str) -> None:
    @router.post("/token", dependencies=[KNOWN_QUERY], responses=described(*WITH_BODY))
    @limiter.limit(rate)
    async def token(
        request: Request,
        response: Response,
        username: Annotated[str, Form(max_length=64)],
        password: Annotated[str, Form(max_length=LONGEST_PASSWORD)],
        _: FormOnly,
    ) -> Token:
        """Exchange a name and a password (a form, as in OAuth 2) for an access token."""
        address = access.security.address(request.scope)
        await _count_attempt(login, address, username)
        found = await login.accounts.password_hash_of(username)
        user, hashed = found or (None, None)
        familiar = login.recent.include(username, address)
        matches = _served(await login.passwords.check(password, hashed, familiar=familiar))
        if user is None or not matches or user.disabled:
            tried = {"name": user.name} if user else {"unknown_name": login.name_digest(username)}
            fields = {**tried, "method": "password"}
            await access.audit.record(Kind.LOGIN_FAILED, "unknown", address, fields)
            raise Problem(401, "auth.password", "The name or the password is wrong.", recorded=True)
        return await _issue_token(access, login, user, address, "password")

    @router.post("/link", dependencies=[KNOWN_QUERY], responses=described(*WITH_BODY))
    @limiter.limit(rate)
    async def link(request: Request, response: Response, body: LoginLink, _: JsonOnly) -> Token:
        """Exchange the secret of a one-time login link for an access token."""
        address = access.security.address(request.scope)
        await _count_attempt(login, address, "")
        user = await login.accounts.take_link(login.secret_hash(body.ticket))
        if user is None or user.disabled:
            await access.audit.record(Kind.LOGIN_FAILED, "unknown", address, {"method": "link"})
            hint = f"`{login.link_command}` creates a new one."
            detail = "This login link was used before, or has expired."
            raise Problem(401, "auth.link", detail, hint=hint, recorded=True)
        return await _issue_token(access, login, user, address, "link")


def _add_session(router: APIRouter, access: Access, login: Login) -> None:
    @router.post("/revoke", status_code=204, responses=described())
    async def revoke(request: Request, principal: Annotated[Principal, Depends(access.caller)]) -> None:
        """Revoke the token of this request."""
        bearer = access.security.bearer(request.scope) or ""
        if principal.token and bearer.startswith("gp_"):
            await login.accounts.revoke_token(principal.token)
        elif principal.token:
            # A renewed token of the same login may last longer than this one, but never as long as this.
            await login.accounts.revoke(principal.token, (principal.token_expires_ms or 0) + DAY_MS)
        await access.audit.record(Kind.LOGOUT, principal.name, principal.address, {"token": principal.token})

    @router.get("/me", responses=described())
    async def me(principal: Annotated[Principal, Depends(access.caller)]) -> Me:
        """The account of the token."""
        user = principal.user
        assert user is not None, "the API has no visitors"
        permissions = sorted(principal.permissions)
        return Me(id=user.id, name=user.name, role=user.role, profile=user.profile, permissions=permissions)


def _add_renewal(router: APIRouter, access: Access, login: Login) -> None:
    caller = Depends(access.caller)

    @router.post("/renew", responses=described(403))
    async def renew(request: Request, principal: Annotated[Principal, caller]) -> Token:
        """The next access token of the same login, which ends a day after the login at the latest."""
        renewed = login.tokens.renew(access.security.bearer(request.scope) or "")
        if renewed is None:
            raise _no_login("renewed")
        await access.audit.record(
            Kind.LOGIN, principal.name, principal.address, {"method": "renewal", "token": principal.token}
        )
        if principal.user:
            login.recent.add(principal.user.name, principal.address)
        return _token(*renewed)

    @router.post("/password", responses=described(*WITH_BODY, 403))
    async def set_password(
        request: Request, principal: Annotated[Principal, caller], body: NewPassword, _: JsonOnly
    ) -> Token:
        """Set the password of the account. Its other access tokens are no longer valid; the response is a new one."""
        claims = login.tokens.verify(access.security.bearer(request.scope) or "")
        user = principal.user
        if claims is None or user is None:
            raise _no_login("used to set a password")
        await _count_attempt(login, principal.address, user.name)
        if not claims.fresh_link:
            await _check_current(access, login, principal, body.current)
        hashed = _served(await login.passwords.hash(body.password))
        await login.accounts.set_password(user.id, hashed)
        fields = {"user": user.name, "change": "password"}
        await access.audit.record(Kind.USER_CHANGED, principal.name, principal.address, fields)
        changed = await login.accounts.user(user.id) or user
        return await _issue_token(access, login, changed, principal.address, "password")


def _no_login(what: str) -> Problem:
    detail = f"Only the access token of a login can be {what}; this is an API token."
    return Problem(403, "auth.session", detail, hint="POST /api/auth/token returns an access token.")


async def _check_current(access: Access, login: Login, principal: Principal, current: str) -> None:
    """Refuse unless it is the password of the caller."""
    name = principal.user.name if principal.user else ""
    found = await login.accounts.password_hash_of(name)
    if _served(await login.passwords.check(current, found[1] if found else None, familiar=True)):
        return
    fields = {"name": name, "method": "password"}
    await access.audit.record(Kind.LOGIN_FAILED, principal.name, principal.address, fields)
    hint = "Without one, log in with a new link: it may set a password within 15 minutes."
    raise Problem(403, "auth.password", "The current password is wrong.", hint=hint, recorded=True)


def _served(result: T | None) -> T:
    """What came of hashing a password. Raises Problem if too many requests wait for that."""
    if result is None:
        hint = "An address from which the account has logged in before is served first."
        raise Problem(429, "auth.busy", "Too many passwords wait to be checked.", hint=hint, retry_after=BUSY)
    return result


async def _count_attempt(login: Login, address: str, name: str) -> None:
    """Count an attempt, for its address and for the name that it tries."""
    others = name and not login.recent.include(name, address)  # who must not lock the user out
    tried = login.name_digest(name) if others else ""
    for limiter, key in ((login.attempts, address), (login.attempts_on_name, tried)):
        if key and (wait := await limiter.hit(key)):
            detail = f"Too many attempts to log in: {limiter.rate} are allowed."
            raise Problem(429, "auth.limited", detail, retry_after=wait)


async def _issue_token(access: Access, login: Login, user: User, address: str, method: str) -> Token:
    token, claims = login.tokens.issue(user, by_link=method == "link")
    fields = {"method": method, "token": claims.token_id}
    await access.audit.record(Kind.LOGIN, f"user:{user.name}", address, fields)
    login.recent.add(user.name, address)
    return _token(token, claims)


def _token(token: str, claims: Claims) -> Token:
    return Token(access_token=token, expires_in=claims.expires_at - claims.issued_at)
