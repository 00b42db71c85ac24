"""What the routes of the API share: the caller and its permissions, and the bodies that they accept."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Annotated, Protocol, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict

from backend.application.owned import Owned
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.identity import Permission, Principal
from backend.core.limits import RateLimiter
from backend.core.ports import AuditLog
from backend.transports.problems import Problem
from backend.transports.security import Rejections, Security

BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
JSON = "application/json"
FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})
RECORDED = ("/api/", "/hooks/")  # where invalid requests are recorded
SHOWN_PATH = 200  # characters of a path that are recorded
SHOWN = 64  # characters of a name that are repeated in a refusal
T = TypeVar("T")
Of = TypeVar("Of", bound=Owned)


class Body(BaseModel):
    """The body of a request. An unknown field is refused: a misspelt `dry_run` must not run the command."""

    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    """What a route returns. It is built for the first request that it answers, so that a start does not wait for all of them."""

    model_config = ConfigDict(defer_build=True)


class Names(Protocol):
    """The accounts."""

    async def names_of(self, ids: Iterable[str]) -> Mapping[str, str]:
        """Unknown ids are omitted."""
        ...


async def with_owners(users: Names, found: Sequence[Of]) -> list[tuple[Of, str]]:
    """Things of accounts, each with the name of its owner; empty for one that does not exist any more."""
    names = await users.names_of({each.owner_id for each in found})
    return [(each, names.get(each.owner_id, "")) for each in found]


@dataclass(frozen=True, slots=True)
class Access:
    """The checks of the API."""

    security: Security
    audit: AuditLog
    requests: RateLimiter
    rejections: Rejections
    mask: Callable[[str], str]

    async def client(self, request: Request) -> Principal:
        """The sender of a request: an account, or a visitor if visitors are admitted. Raises Problem."""
        scope = request.scope
        return granted(await self.security.identify(self.security.bearer(scope), self.security.visitor(scope)))

    async def caller(self, request: Request) -> Principal:
        """The account that sends a request. Raises Problem."""
        known = await self.client(request)
        if known.user is None:
            raise Problem(
                401, "auth.required", "The API requires the token of an account: POST /api/auth/token returns one."
            )
        request.state.principal = known
        if wait := await self.requests.hit(known.name):
            detail = f"Too many requests: {self.requests.rate} are allowed."
            raise Problem(429, "limits.requests", detail, retry_after=wait)
        await check_query(request)
        return known

    def needs(self, permission: Permission) -> Callable[[Request], Awaitable[Principal]]:
        """A dependency: the caller, who must have `permission`."""

        async def dependency(request: Request) -> Principal:
            principal = await self.caller(request)
            if not principal.may(permission):
                hint = "Ask an administrator for another role, or for a token with that scope."
                detail = f"This requires the permission to {permission}, which {principal.name} does not have here."
                raise Problem(403, "role.forbidden", detail, hint=hint)
            return principal

        return dependency

    async def rejected(self, request: Request, status: int, rule: str) -> None:
        """Record an invalid request in the audit; of a flood from one address, only the beginning."""
        address = self.security.address(request.scope)
        if not request.url.path.startswith(RECORDED):
            return
        principal: Principal | None = getattr(request.state, "principal", None)
        actor = principal.name if principal else "unknown"
        path = self.mask(request.url.path)[:SHOWN_PATH]  # cut first, the rest of a secret might not look like one
        await self.rejections.record(actor, address, method=request.method, path=path, status=status, rule=rule)


def granted(answer: T | Decision, *, recorded: bool = False) -> T:
    """What a use case returned. Raises Problem if it is a refusal."""
    if isinstance(answer, Decision):
        raise Problem.of(answer, recorded=recorded)
    return answer


async def json_only(request: Request) -> None:
    """Refuse bodies of another type, which a page of another origin can send without a preflight request."""
    if request.method not in BODY_METHODS:
        return
    sent = _type_of(request)
    if sent != JSON and (sent or request.headers.get("content-length", "0") != "0"):
        raise Problem(415, "request.type", f"Expected a body of {JSON}.", hint=f"Send 'Content-Type: {JSON}'.")


async def check_query(request: Request) -> None:
    """Refuse an unknown query parameter: a misspelt `limit` must not be ignored. Raises Problem."""
    known = sorted(field.alias for field in request.scope["route"].dependant.query_params)
    for name in request.query_params:
        if name not in known:
            error = {"place": f"query.{name[:SHOWN]}", "message": "Extra inputs are not permitted"}
            detail = f"The request cannot be understood: {error['place']}: {error['message']}."
            hint = f"This route accepts {', '.join(known)}." if known else "This route accepts no query parameters."
            raise Problem(422, "request.invalid", detail, hint=hint, extra={"errors": [error]})


async def form_only(request: Request) -> None:
    """Refuse what is not a form."""
    if _type_of(request) not in FORMS:
        detail = "Expected a form, as in OAuth 2: username and password."
        raise Problem(415, "request.type", detail, hint="Send 'Content-Type: application/x-www-form-urlencoded'.")


def _type_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


KNOWN_QUERY = Depends(check_query)  # of routes without a caller; the others check it once they know the caller
JsonOnly = Annotated[None, Depends(json_only)]
FormOnly = Annotated[None, Depends(form_only)]
