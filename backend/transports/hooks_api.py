"""Hooks: what accounts do with them, and the calls that start them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi import Path as PathParameter
from pydantic import Field

from backend.application.hooks import HookCalls, HookService
from backend.core import ids
from backend.core.dataclasses import dataclass
from backend.core.execution.requests import Refused
from backend.core.hooks.model import Choice, Hook, HookCall, Integer, Parameter, Text
from backend.core.hooks.rules import LONGEST_BODY
from backend.core.identity import Permission, Principal
from backend.core.times import iso
from backend.transports.dependencies import KNOWN_QUERY, Access, Answer, Body, JsonOnly, Names, granted, with_owners
from backend.transports.problems import WITH_BODY, described
from backend.transports.routing import new_router
from backend.transports.schemas import LINE, STARTING, RotateBody, Started, Targeted, refusal

PREFIX = "/hooks/"
HookId = Annotated[str, PathParameter(pattern=ids.PATTERN)]
JSON_OBJECT = {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}


class ChoiceParameter(Body):
    """One of these texts."""

    type: Literal["choice"]
    values: list[str]


class IntegerParameter(Body):
    """A whole number between two bounds, which are included."""

    type: Literal["integer"]
    minimum: int = Field(strict=True)
    maximum: int = Field(strict=True)


class TextParameter(Body):
    """A text that the pattern matches as a whole. The line is judged with the example when the hook is saved."""

    type: Literal["text"]
    pattern: str
    max_length: int = Field(strict=True)
    example: str


AnyParameter = Annotated[ChoiceParameter | IntegerParameter | TextParameter, Field(discriminator="type")]


class NewHook(Targeted):
    """A hook to add: a line in which `{name}` stands for the value of a parameter. `timeout` is in seconds."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")
    command: str = LINE
    parameters: dict[str, AnyParameter] = Field(default={}, max_length=10)
    working_dir: str = Field(default=".", max_length=1024)
    timeout: int | None = Field(default=None, ge=1, le=86400)


class HookEntry(Answer):
    """A hook as the API shows it. `owner` is the name of its account, `url` where calls go."""

    id: str
    name: str
    owner: str
    command: str
    parameters: dict[str, AnyParameter]
    target: str
    working_dir: str
    timeout: int | None
    url: str
    created_at: str


class AddedHook(HookEntry):
    """A new hook. Its calls are signed with `secret`, which is shown only now."""

    secret: str


@dataclass(frozen=True, slots=True)
class HookRoutes:
    """What the routes need."""

    access: Access
    service: HookService
    calls: HookCalls
    users: Names

    async def entries(self, hooks: Sequence[Hook]) -> list[HookEntry]:
        """Hooks as the API shows them."""
        return [_entry(*each) for each in await with_owners(self.users, hooks)]

    async def with_secret(self, hook: Hook) -> AddedHook:
        """A hook as the API shows it once, with its secret."""
        (entry,) = await self.entries([hook])
        return AddedHook(**entry.model_dump(), secret=hook.secret)


def hook_routes(routes: HookRoutes) -> APIRouter:
    """The routes under /api/hooks, and that of the calls."""
    router = new_router("hooks")
    _add_administration(router, routes)
    _add_calls(router, routes)
    return router


def _add_administration(router: APIRouter, routes: HookRoutes) -> None:
    reader = Depends(routes.access.needs(Permission.READ))
    worker = Depends(routes.access.needs(Permission.EXECUTE))

    @router.get("/api/hooks", responses=described(403))
    async def list_hooks(principal: Annotated[Principal, reader]) -> list[HookEntry]:
        """The hooks of the caller; for administrators all."""
        return await routes.entries(await routes.service.visible_to(principal))

    @router.post("/api/hooks", status_code=201, responses=described(*WITH_BODY, 403, 404, 409))
    async def add(principal: Annotated[Principal, worker], body: NewHook, _: JsonOnly) -> AddedHook:
        """Add a hook; the caller owns it, and it acts as the caller."""
        asked = Hook(
            id="",
            owner_id="",
            name=body.name,
            command=body.command,
            parameters=parameters_of(body.parameters),
            target=str(body.ref),
            working_dir=body.working_dir,
            timeout=body.timeout,
            secret="",
            created_ms=0,
        )
        return await routes.with_secret(granted(await routes.service.add(principal, principal, asked)))

    @router.post("/api/hooks/{hook}/rotate", status_code=201, responses=described(*WITH_BODY, 403, 404))
    async def rotate(principal: Annotated[Principal, worker], hook: HookId, body: RotateBody, _: JsonOnly) -> AddedHook:
        """Give a hook a new secret. The old one signs calls for a while."""
        return await routes.with_secret(granted(await routes.service.rotate(principal, hook, body.overlap)))

    @router.delete("/api/hooks/{hook}", status_code=204, responses=described(403, 404))
    async def delete(principal: Annotated[Principal, worker], hook: HookId) -> None:
        """Delete a hook. Its executions remain in the history."""
        granted(await routes.service.delete(principal, hook))


def _add_calls(router: APIRouter, routes: HookRoutes) -> None:
    @router.post(
        PREFIX + "{hook}",
        status_code=202,
        responses=described(*WITH_BODY, *STARTING),
        dependencies=[KNOWN_QUERY],
        max_body_size=LONGEST_BODY,
        openapi_extra=JSON_OBJECT,
    )
    async def call(
        request: Request,
        response: Response,
        hook: str,
        id: Annotated[str, Header(alias="webhook-id")] = "",
        timestamp: Annotated[str, Header(alias="webhook-timestamp")] = "",
        signatures: Annotated[str, Header(alias="webhook-signature")] = "",
    ) -> Started:
        """Start the line of a hook with the values in the body. Signed as Standard Webhooks describe it."""
        sent = HookCall(id, timestamp, signatures, await request.body())
        called = await routes.calls.call(hook, sent, routes.access.security.address(request.scope))
        if isinstance(called, Refused):
            raise refusal(called)
        url = f"/api/executions/{called.execution}"
        response.headers["location"] = url
        return Started(id=called.execution, status=called.status, url=url)


def parameters_of(described: Mapping[str, AnyParameter]) -> dict[str, Parameter]:
    """The parameters that a body describes."""
    return {name: _parameter(each) for name, each in described.items()}


def _parameter(described: ChoiceParameter | IntegerParameter | TextParameter) -> Parameter:
    match described:
        case ChoiceParameter():
            return Choice(tuple(described.values))
        case IntegerParameter():
            return Integer(described.minimum, described.maximum)
        case TextParameter():
            return Text(described.pattern, described.max_length, described.example)


def _described(parameter: Parameter) -> ChoiceParameter | IntegerParameter | TextParameter:
    match parameter:
        case Choice(values=values):
            return ChoiceParameter(type="choice", values=list(values))
        case Integer():
            return IntegerParameter(type="integer", **asdict(parameter))
        case Text():
            return TextParameter(type="text", **asdict(parameter))


def _entry(hook: Hook, owner: str) -> HookEntry:
    return HookEntry(
        id=hook.id,
        name=hook.name,
        owner=owner,
        command=hook.command,
        parameters={name: _described(each) for name, each in hook.parameters.items()},
        target=hook.target,
        working_dir=hook.working_dir,
        timeout=hook.timeout,
        url=f"{PREFIX}{hook.id}",
        created_at=iso(hook.created_ms),
    )


BODY_LIMITS = {PREFIX: LONGEST_BODY}
