"""Django projects as resources: their commands, and the keys of their runners. Commands run as any other execution."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from backend.application.django_targets import DjangoProject, DjangoTargets
from backend.application.projects import ProjectService, may_change
from backend.application.runner_keys import KeyAdministration, NewKey
from backend.application.runners import target_of
from backend.core.dataclasses import dataclass
from backend.core.django.commands import CommandList
from backend.core.django.help import HelpField, fields_of, summary_of
from backend.core.django.ports import RunnerKey, RunnerStore
from backend.core.identity import Permission, Principal, Project
from backend.core.times import iso
from backend.transports.dependencies import Access, Answer, Body, JsonOnly, granted
from backend.transports.problems import WITH_BODY, Problem, described
from backend.transports.routing import new_router
from backend.transports.schemas import RotateBody

MOST_SHOWN = 500  # commands of one answer
Label = Annotated[str, Field(min_length=1, max_length=64)]


class RunnerResponse(Answer):
    """A runner, by its key. `state` is `online`, `offline`, `suspended` or `revoked`; times are UTC."""

    id: str
    name: str
    state: str
    suspended: str | None
    last_seen: str | None
    created_at: str
    expires_at: str | None
    runner_version: str
    python_version: str
    django_version: str


class NewKeyResponse(RunnerResponse):
    """A new key. `secret` is shown only now."""

    secret: str


class DjangoProjectResponse(Answer):
    """A Django project: `target` is how executions name it. `manages`: the caller may change its keys and runners."""

    project_id: str
    name: str
    target: str
    manages: bool
    runners: list[RunnerResponse]


class FieldResponse(Answer):
    """An argument of a command, as its help describes it. `flag` is empty for one without a name.

    With `many` it takes several words.
    """

    name: str
    flag: str
    takes_value: bool
    required: bool
    choices: list[str]
    help: str
    many: bool


class CommandResponse(Answer):
    """A management command. `allowed` says whether the project may run it.

    `summary` is a sentence of its help, `fields` are its arguments; both are empty where the help cannot be read.
    """

    name: str
    app_label: str
    summary: str
    help_text: str
    allowed: bool
    fields: list[FieldResponse]


class CommandsResponse(Answer):
    """The commands of a project, as its runners list them."""

    commands: list[CommandResponse]
    hash: str
    total: int


class NewKeyBody(Body):
    """A key to create, for a runner with this name."""

    name: Label = "runner"


class SuspendBody(Body):
    """Why a runner gets no executions; it is shown to the runner."""

    reason: str = Field(min_length=1, max_length=500)


@dataclass(frozen=True, slots=True)
class DjangoService:
    """What the routes need. `owners` says who may change a project."""

    access: Access
    targets: DjangoTargets
    store: RunnerStore
    keys: KeyAdministration
    owners: ProjectService

    async def own(self, principal: Principal, name: str) -> Project:
        """A project whose runners the caller may manage. Raises Problem."""
        found = granted(await self.targets.find(principal, name))
        return granted(await self.owners.own(principal, found.id))

    async def key(self, principal: Principal, name: str, id: str) -> RunnerKey:
        """A key of such a project. Raises Problem."""
        project = await self.own(principal, name)
        found = await self.store.key(id)
        if found is None or found.project != project.id:
            detail = f"The project {project.name!r} has no key {id[:64]!r}."
            raise Problem(404, "target.unknown", detail, hint=f"GET /api/django/{project.id}/keys lists its keys.")
        return found

    def runner(self, key: RunnerKey) -> RunnerResponse:
        """A runner as the API shows it."""
        return RunnerResponse(
            id=key.id,
            name=key.name,
            state=key.state(self.targets.now_ms()),
            suspended=key.suspended,
            last_seen=None if key.seen_ms is None else iso(key.seen_ms),
            created_at=iso(key.created_ms),
            expires_at=None if key.expires_ms is None else iso(key.expires_ms),
            runner_version=key.versions.runner,
            python_version=key.versions.python,
            django_version=key.versions.django,
        )

    def created(self, made: NewKey) -> NewKeyResponse:
        """A new key as the API shows it, once."""
        return NewKeyResponse(**self.runner(made.key).model_dump(), secret=made.secret)

    def project(self, found: DjangoProject, principal: Principal) -> DjangoProjectResponse:
        """A Django project as the API shows it."""
        project = found.project
        return DjangoProjectResponse(
            project_id=project.id,
            name=project.name,
            target=str(target_of(project.id)),
            manages=may_change(principal, project),
            runners=[self.runner(key) for key in found.keys],
        )

    async def commands(self, project: Project, search: str) -> CommandsResponse:
        """The commands of a project that match a search."""
        listed = await self.store.commands(project.id) or CommandList((), "")
        allowed = (await self.targets.profile_of(project)).programs
        found = listed.matching(search)[:MOST_SHOWN]
        return CommandsResponse(
            commands=[
                CommandResponse(
                    name=each.name,
                    app_label=each.app_label,
                    summary=summary_of(each.help_text),
                    help_text=each.help_text,
                    allowed=each.name in allowed,
                    fields=list(map(_field, fields_of(each.help_text))),
                )
                for each in found
            ],
            hash=listed.hash,
            total=len(listed.commands),
        )


def _field(field: HelpField) -> FieldResponse:
    return FieldResponse(
        name=field.name,
        flag=field.flag,
        takes_value=field.takes_value,
        required=field.required,
        choices=list(field.choices),
        help=field.help,
        many=field.many,
    )


def django_routes(service: DjangoService) -> APIRouter:
    """The routes under /api/django."""
    router = new_router("django", "/api/django")
    _add_looking(router, service)
    _add_keys(router, service)
    _add_runners(router, service)
    return router


def _add_looking(router: APIRouter, service: DjangoService) -> None:
    reader = Depends(service.access.needs(Permission.READ))

    @router.get("", responses=described(403))
    async def list_projects(principal: Annotated[Principal, reader]) -> list[DjangoProjectResponse]:
        """The Django projects that exist for the caller, with their runners."""
        return [service.project(each, principal) for each in await service.targets.visible(principal)]

    @router.get("/{project}/commands", responses=described(403, 404))
    async def commands(
        principal: Annotated[Principal, reader], project: str, search: Annotated[str, Query(max_length=200)] = ""
    ) -> CommandsResponse:
        """The management commands of a project, with their help; `search` looks into names, apps and help."""
        found = granted(await service.targets.find(principal, project))
        return await service.commands(found, search)

    @router.get("/{project}/keys", responses=described(403, 404))
    async def keys(principal: Annotated[Principal, reader], project: str) -> list[RunnerResponse]:
        """The keys of the runners of a project, without their secrets."""
        found = granted(await service.targets.find(principal, project))
        return [service.runner(key) for key in await service.store.keys([found.id])]


def _add_keys(router: APIRouter, service: DjangoService) -> None:
    worker = Depends(service.access.needs(Permission.EXECUTE))

    @router.post("/{project}/keys", status_code=201, responses=described(*WITH_BODY, 403, 404))
    async def create(
        principal: Annotated[Principal, worker], project: str, body: NewKeyBody, _: JsonOnly
    ) -> NewKeyResponse:
        """Create a key for a runner. Its secret is shown only now."""
        own = await service.own(principal, project)
        try:
            return service.created(await service.keys.create(principal, own.id, body.name))
        except ValueError as error:
            raise Problem(422, "project.name", f"Invalid key: {error}.") from error

    @router.post("/{project}/keys/{key}/rotate", status_code=201, responses=described(*WITH_BODY, 403, 404))
    async def rotate(
        principal: Annotated[Principal, worker], project: str, key: str, body: RotateBody, _: JsonOnly
    ) -> NewKeyResponse:
        """Create a new key for the same runner. The old one is valid for a while."""
        found = await service.key(principal, project, key)
        return service.created(await service.keys.rotate(principal, found, body.overlap))

    @router.delete("/{project}/keys/{key}", status_code=204, responses=described(403, 404))
    async def revoke(principal: Annotated[Principal, worker], project: str, key: str) -> None:
        """Revoke a key at once."""
        await service.keys.revoke(principal, await service.key(principal, project, key))


def _add_runners(router: APIRouter, service: DjangoService) -> None:
    worker = Depends(service.access.needs(Permission.EXECUTE))

    async def changed(key: RunnerKey) -> RunnerResponse:
        return service.runner(await service.store.key(key.id) or key)

    @router.post("/{project}/keys/{key}/suspend", responses=described(*WITH_BODY, 403, 404))
    async def suspend(
        principal: Annotated[Principal, worker], project: str, key: str, body: SuspendBody, _: JsonOnly
    ) -> RunnerResponse:
        """Give a runner no further executions, for a reason. What it runs goes on."""
        found = await service.key(principal, project, key)
        await service.keys.suspend(principal, found, body.reason)
        return await changed(found)

    @router.post("/{project}/keys/{key}/resume", responses=described(403, 404))
    async def resume(principal: Annotated[Principal, worker], project: str, key: str) -> RunnerResponse:
        """Give a runner executions again."""
        found = await service.key(principal, project, key)
        await service.keys.resume(principal, found)
        return await changed(found)
