"""Who calls the API, whether it may, and what it asks for: the checks that every route shares."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict

from backend.core.decisions import Decision
from backend.core.execution.targets import Target
from backend.core.identity import Permission, Principal
from backend.core.limits import RateLimiter
from backend.core.ports import AuditLog, Directory
from backend.transports.problems import Problem
from backend.transports.security import Door, Rejections

WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
JSON = "application/json"
FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})


class Body(BaseModel):
    """What a client sends. A field that is not known is refused: a misspelt `dry_run` must not run the command."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Access:
    """The checks of the API."""

    door: Door
    directory: Directory
    audit: AuditLog
    requests: RateLimiter
    rejections: Rejections

    async def caller(self, request: Request) -> Principal:
        """The account behind a request. Raises Problem."""
        visitor = Principal("visitor", self.door.address(request.scope), frozenset())
        known = await self.door.identify(self.door.bearer(request.scope), visitor)
        if isinstance(known, Decision):
            raise Problem.of(known)
        if known.user is None:
            raise Problem(
                401, "auth.required", "The API wants the token of an account: POST /api/auth/token gives one."
            )
        request.state.principal = known
        if wait := await self.requests.hit(known.name):
            detail = f"Too many requests: {self.requests.rate} are allowed."
            raise Problem(429, "limits.requests", detail, retry_after=wait)
        return known

    def needs(self, permission: Permission) -> Callable[[Request], Awaitable[Principal]]:
        """A dependency: the caller, who must have `permission`."""

        async def dependency(request: Request) -> Principal:
            principal = await self.caller(request)
            if not principal.may(permission):
                hint = "Ask an administrator for another role, or for a token with that scope."
                detail = f"This wants the permission to {permission}, which {principal.name} does not have here."
                raise Problem(403, "role.forbidden", detail, hint=hint)
            return principal

        return dependency

    async def target(self, principal: Principal, project: str | None) -> Target:
        """Where a command is to run. Raises Problem (404) for a project that does not exist for the caller."""
        found = await self.directory.target(principal, project)
        if found is None:
            raise unknown_project()
        return found

    async def rejected(self, request: Request, status: int, rule: str) -> None:
        """Write a bad request to the audit; of a flood from one address only the beginning."""
        address = self.door.address(request.scope)
        if not request.url.path.startswith("/api/"):
            return
        principal: Principal | None = getattr(request.state, "principal", None)
        actor = principal.name if principal else "unknown"
        path = request.url.path[:200]
        await self.rejections.note(actor, address, method=request.method, path=path, status=status, rule=rule)


def unknown_project() -> Problem:
    """The answer for a project that does not exist for the caller."""
    return Problem(404, "project.unknown", "There is no such project for you.", hint="See GET /api/projects.")


async def json_only(request: Request) -> None:
    """Refuse bodies of another type: a page of another origin can send those without asking."""
    if request.method not in WITH_BODY:
        return
    sent = _type_of(request)
    if sent != JSON and (sent or request.headers.get("content-length", "0") != "0"):
        raise Problem(415, "request.type", f"A body of {JSON} is wanted.", hint=f"Send 'Content-Type: {JSON}'.")


async def form_only(request: Request) -> None:
    """Refuse what is not a form."""
    if _type_of(request) not in FORMS:
        detail = "A form is wanted, as in OAuth 2: username and password."
        raise Problem(415, "request.type", detail, hint="Send 'Content-Type: application/x-www-form-urlencoded'.")


def _type_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


JsonOnly = Annotated[None, Depends(json_only)]
FormOnly = Annotated[None, Depends(form_only)]
