"""Login and logout: passwords and one-time links are exchanged for access tokens."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Form, Request, Response
from pydantic import BaseModel, Field
from slowapi import Limiter

from backend.core.audit.events import Kind
from backend.core.identity import LONGEST_PASSWORD, Claims, Permission, Principal, User
from backend.core.limits import RateLimiter
from backend.transports.dependencies import Access, Body, FormOnly, JsonOnly, api_router
from backend.transports.problems import WITH_BODY, Problem, described


class Accounts(Protocol):
    """The accounts, as far as a login needs them."""

    async def password_hash_of(self, name: str) -> tuple[User, str | None] | None: ...

    async def take_link(self, secret_hash: bytes) -> User | None: ...

    async def revoke(self, jti: str, expires_ms: int) -> None: ...

    async def revoke_token(self, id: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Login:
    """What a login needs. `attempts` is counted for each address, `attempts_on_name` for each name.

    `link_command` is how an administrator creates a login link.
    """

    accounts: Accounts
    check_password: Callable[[str, str | None], Awaitable[bool]]
    secret_hash: Callable[[str], bytes]
    issue: Callable[[str], tuple[str, Claims]]
    attempts: RateLimiter
    attempts_on_name: RateLimiter
    link_command: str


class Token(BaseModel):
    """An access token. `expires_in` is in seconds."""

    access_token: str
    token_type: str = "bearer"
    expires_in: int


class LoginLink(Body):
    """The secret of a one-time login link."""

    ticket: str = Field(max_length=200)


class Me(BaseModel):
    """The account behind a token."""

    id: str
    name: str
    role: str
    profile: str
    permissions: list[Permission]


def login_routes(access: Access, login: Login, limiter: Limiter, rate: str) -> APIRouter:
    """The routes under /api/auth."""
    router = api_router("/api/auth", "login")
    _add_login(router, access, login, limiter, rate)
    _add_session(router, access, login)
    return router


def _add_login(router: APIRouter, access: Access, login: Login, limiter: Limiter, rate: str) -> None:
    @router.post("/token", responses=described(*WITH_BODY))
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
        matches = await login.check_password(password, hashed)
        if user is None or not matches or user.disabled:
            fields = {"name": username, "method": "password"}
            await access.audit.record(Kind.LOGIN_FAILED, "unknown", address, fields)
            raise Problem(401, "auth.password", "The name or the password is wrong.", recorded=True)
        return await _issue_token(access, login, user, address, "password")

    @router.post("/link", responses=described(*WITH_BODY))
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
            await login.accounts.revoke(principal.token, principal.token_expires_ms or 0)
        await access.audit.record(Kind.LOGOUT, principal.name, principal.address, {"token": principal.token})

    @router.get("/me", responses=described())
    async def me(principal: Annotated[Principal, Depends(access.caller)]) -> Me:
        """The account of the token."""
        user = principal.user
        assert user is not None, "the API has no visitors"
        permissions = sorted(principal.permissions)
        return Me(id=user.id, name=user.name, role=user.role, profile=user.profile, permissions=permissions)


async def _count_attempt(login: Login, address: str, name: str) -> None:
    """Count an attempt, for its address and for the name that it tries."""
    for limiter, key in ((login.attempts, address), (login.attempts_on_name, name)):
        if key and (wait := await limiter.hit(key)):
            detail = f"Too many attempts to log in: {limiter.rate} are allowed."
            raise Problem(429, "auth.limited", detail, retry_after=wait)


async def _issue_token(access: Access, login: Login, user: User, address: str, method: str) -> Token:
    token, claims = login.issue(user.id)
    fields = {"method": method, "token": claims.token_id}
    await access.audit.record(Kind.LOGIN, f"user:{user.name}", address, fields)
    return Token(access_token=token, expires_in=claims.expires_at - claims.issued_at)
