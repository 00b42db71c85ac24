"""Projects: places for commands, each with its members, workspace and policy."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field

from backend.application.projects import ProjectService
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.identity import PROFILE, NetworkAccess, Permission, Principal, Project
from backend.core.policy.egress import MOST_ENTRIES
from backend.core.times import iso
from backend.transports.dependencies import Access, Answer, Body, JsonOnly, Names, granted
from backend.transports.problems import WITH_BODY, Problem, described
from backend.transports.routing import new_router

Name = Annotated[str, Field(min_length=1, max_length=100)]
Programs = Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=50)]
Members = Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=200)]
Hosts = Annotated[list[Annotated[str, Field(min_length=1, max_length=300)]], Field(max_length=MOST_ENTRIES)]
ProfileName = Annotated[str, Field(min_length=1, max_length=64)]


class NewProject(Body):
    """A project to create. `members` are names of accounts; only administrators may widen the policy.

    `network` is off, on, or the hosts that commands may reach; without it, those of the operator.
    """

    name: Name
    profile: ProfileName = PROFILE
    allowed_extra: Programs = Field(default_factory=list)
    network: bool | Hosts | None = None
    metadata_only: bool = False
    members: Members = Field(default_factory=list)


class ProjectChange(Body):
    """What to change; fields that are omitted remain as they are."""

    name: Name | None = None
    profile: ProfileName | None = None
    allowed_extra: Programs | None = None
    network: bool | Hosts | None = None
    metadata_only: bool | None = None
    members: Members | None = None


class ProjectEntry(Answer):
    """A project as the API shows it. `owner` and `members` are names of accounts."""

    id: str
    name: str
    owner: str
    members: list[str]
    profile: str
    allowed_extra: list[str]
    network: bool | list[str]
    metadata_only: bool
    created_at: str


@dataclass(frozen=True, slots=True)
class ProjectRoutes:
    """What the routes need."""

    access: Access
    service: ProjectService
    users: Names

    async def entry(self, project: Project) -> ProjectEntry:
        return (await self.entries([project]))[0]

    async def entries(self, projects: Sequence[Project]) -> list[ProjectEntry]:
        """Projects as the API shows them; the names of all their accounts are read at once."""
        people = {id for project in projects for id in (project.owner_id, *project.members)}
        names = await self.users.names_of(people)
        return [_entry(project, names) for project in projects]


def _entry(project: Project, names: Mapping[str, str]) -> ProjectEntry:
    return ProjectEntry(
        id=project.id,
        name=project.name,
        owner=names.get(project.owner_id, ""),
        members=sorted(names.get(id, "") for id in project.members),
        profile=project.profile,
        allowed_extra=list(project.allowed_extra),
        network=_shown(project.network),
        metadata_only=project.metadata_only,
        created_at=iso(project.created_ms),
    )


def _shown(access: NetworkAccess) -> bool | list[str]:
    return access if isinstance(access, bool) else list(access)


def project_routes(routes: ProjectRoutes) -> APIRouter:
    """The routes under /api/projects."""
    router = new_router("projects", "/api/projects")
    _add_creation(router, routes)
    _add_changes(router, routes)
    return router


def _add_creation(router: APIRouter, routes: ProjectRoutes) -> None:
    reader = Depends(routes.access.needs(Permission.READ))
    worker = Depends(routes.access.needs(Permission.EXECUTE))

    @router.get("", responses=described(403))
    async def list_projects(principal: Annotated[Principal, reader]) -> list[ProjectEntry]:
        """The projects that exist for the caller."""
        return await routes.entries(await routes.service.visible_to(principal))

    @router.post("", status_code=201, responses=described(*WITH_BODY, 403))
    async def create(principal: Annotated[Principal, worker], body: NewProject, _: JsonOnly) -> ProjectEntry:
        """Create a project; the caller owns it."""
        given = body.model_dump(exclude={"name"}, exclude_none=True)
        return await routes.entry(granted_project(await routes.service.add(principal, body.name, given)))


def _add_changes(router: APIRouter, routes: ProjectRoutes) -> None:
    service = routes.service
    reader = Depends(routes.access.needs(Permission.READ))

    @router.get("/{project_id}", responses=described(403, 404))
    async def one(principal: Annotated[Principal, reader], project_id: str) -> ProjectEntry:
        """One project."""
        return await routes.entry(granted(await service.get(principal, project_id)))

    @router.patch("/{project_id}", responses=described(*WITH_BODY, 403, 404))
    async def change(
        principal: Annotated[Principal, reader], project_id: str, body: ProjectChange, _: JsonOnly
    ) -> ProjectEntry:
        """Change a project."""
        given = body.model_dump(exclude_none=True)
        return await routes.entry(granted_project(await service.change(principal, project_id, given)))

    @router.delete("/{project_id}", status_code=204, responses=described(403, 404))
    async def delete(principal: Annotated[Principal, reader], project_id: str) -> None:
        """Delete a project. Its workspace and its history remain for the operator."""
        granted(await service.delete(principal, project_id))


def granted_project(answer: Project | Decision) -> Project:
    """What a use case returned. Raises Problem: a list of hosts that cannot be held here is an invalid field."""
    if isinstance(answer, Decision) and answer.rule == "network.rooms":  # not that of a command, which is refused
        raise Problem(422, answer.rule, answer.reason, hint=answer.hint)
    return granted(answer)
