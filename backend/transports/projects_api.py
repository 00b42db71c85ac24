"""Projects: places for commands, each with its members, workspace and policy."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from backend.application import projects
from backend.core.audit.events import Kind
from backend.core.dataclasses import dataclass
from backend.core.execution.refusals import unknown_project
from backend.core.identity import NetworkAccess, Permission, Principal, Project
from backend.core.policy.egress import MOST_ENTRIES, hosts_of, is_wider
from backend.core.ports import Projects
from backend.core.times import iso
from backend.transports.dependencies import Access, Body, JsonOnly, Names, granted
from backend.transports.problems import WITH_BODY, Problem, described
from backend.transports.routing import new_router

PROFILE = "agent"
Name = Annotated[str, Field(min_length=1, max_length=100)]
Programs = Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=50)]
Members = Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=200)]
Hosts = Annotated[list[Annotated[str, Field(min_length=1, max_length=300)]], Field(max_length=MOST_ENTRIES)]
T = TypeVar("T")
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


class ProjectEntry(BaseModel):
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


class Users(Names, Protocol):
    """The accounts. Unknown names and ids are omitted."""

    async def ids_of(self, names: Iterable[str]) -> Mapping[str, str]: ...


class Profiles(Protocol):
    """The policies that a project can have."""

    def check_profile(self, profile: str, allowed_extra: Sequence[str]) -> str:
        """Why a project cannot have this profile and these programs; empty if it can."""
        ...


@dataclass(frozen=True, slots=True)
class ProjectService:
    """What the routes need. `add_command` is how an administrator adds an account.

    `hosts` is the operator's list for new projects; `holds_hosts` says whether commands can be held to a list here.
    """

    access: Access
    projects: Projects
    users: Users
    profiles: Profiles
    add_command: str
    hosts: tuple[str, ...] = ()
    holds_hosts: bool = False

    async def visible(self, principal: Principal, id: str) -> Project:
        """A project that exists for the caller. Raises Problem."""
        return granted(await projects.find(principal, id, self.projects))

    async def own(self, principal: Principal, id: str) -> Project:
        """A project that the caller may change. Raises Problem."""
        return granted(await projects.find_own(principal, id, self.projects))

    async def members(self, names: list[str]) -> frozenset[str]:
        """The ids of accounts. Raises Problem for a name that does not exist."""
        found = await self.users.ids_of(names)
        for name in names:
            if name not in found:
                hint = f"An administrator adds accounts: `{self.add_command}`."
                raise Problem(422, "project.member", f"There is no account {name!r}.", hint=hint)
        return frozenset(found.values())

    def network(self, given: bool | list[str]) -> NetworkAccess:
        """The network as it is stored. Raises Problem for a list that is invalid, or cannot be held here."""
        if isinstance(given, bool):
            return given
        try:
            hosts = tuple(map(str, hosts_of(given)))
        except ValueError as error:
            raise Problem(422, "project.network", f"Invalid list of hosts: {error}.") from error
        if hosts and not self.holds_hosts:
            detail = "Commands cannot be held to a list of hosts here: this needs namespaces (L3)."
            hint = "The operator sees the reason in GET /health/protection and sets GATEPOST_NAMESPACES; true and false remain."
            raise Problem(422, "network.rooms", detail, hint=hint)
        return hosts or False

    @property
    def default_network(self) -> NetworkAccess:
        """That of a project for which none was named."""
        return self.hosts if self.hosts and self.holds_hosts else False

    async def entry(self, project: Project) -> ProjectEntry:
        return (await self.entries([project]))[0]

    async def entries(self, projects: Sequence[Project]) -> list[ProjectEntry]:
        """Projects as the API shows them; the names of all their accounts are read at once."""
        people = {id for project in projects for id in (project.owner_id, *project.members)}
        names = await self.users.names_of(people)
        return [_entry(project, names) for project in projects]

    def check(self, principal: Principal, profile: str, extra: list[str], *, wider: bool) -> None:
        """Refuse an invalid policy, and one that is wider than the caller may decide. Raises Problem."""
        if wider and not principal.may(Permission.ADMIN):
            detail = "Only administrators can grant the network, further programs or another profile."
            raise Problem(403, "project.widening", detail)
        if why := self.profiles.check_profile(profile, extra):
            raise Problem(422, "project.policy", f"Invalid policy: {why}.")


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


def project_routes(service: ProjectService) -> APIRouter:
    """The routes under /api/projects."""
    router = new_router("projects", "/api/projects")
    _add_creation(router, service)
    _add_changes(router, service)
    return router


def _add_creation(router: APIRouter, service: ProjectService) -> None:
    reader = Depends(service.access.needs(Permission.READ))
    worker = Depends(service.access.needs(Permission.EXECUTE))

    @router.get("", responses=described(403))
    async def list_projects(principal: Annotated[Principal, reader]) -> list[ProjectEntry]:
        """The projects that exist for the caller."""
        found = await service.projects.visible_to(principal.user) if principal.user else []
        return await service.entries([project for project in found if project.is_open_to(principal)])

    @router.post("", status_code=201, responses=described(*WITH_BODY, 403))
    async def create(principal: Annotated[Principal, worker], body: NewProject, _: JsonOnly) -> ProjectEntry:
        """Create a project; the caller owns it."""
        network = service.default_network if body.network is None else service.network(body.network)
        wider = is_wider(network, False, service.hosts) or bool(body.allowed_extra) or body.profile != PROFILE
        service.check(principal, body.profile, body.allowed_extra, wider=wider)
        members = await service.members(body.members)
        owner = principal.user.id if principal.user else ""
        settings = body.model_dump(include={"allowed_extra", "metadata_only"})
        made = await _named(lambda: service.projects.add(body.name, owner, body.profile, network=network, **settings))
        if members:
            made = await service.projects.change(made.id, members=members) or made
        await _record(service, Kind.PROJECT_CREATED, principal, made)
        return await service.entry(made)


def _add_changes(router: APIRouter, service: ProjectService) -> None:
    reader = Depends(service.access.needs(Permission.READ))

    @router.get("/{project_id}", responses=described(403, 404))
    async def one(principal: Annotated[Principal, reader], project_id: str) -> ProjectEntry:
        """One project."""
        return await service.entry(await service.visible(principal, project_id))

    @router.patch("/{project_id}", responses=described(*WITH_BODY, 403, 404))
    async def change(
        principal: Annotated[Principal, reader], project_id: str, body: ProjectChange, _: JsonOnly
    ) -> ProjectEntry:
        """Change a project."""
        found = await service.own(principal, project_id)
        changes = body.model_dump(exclude_none=True)
        extra = changes.get("allowed_extra", list(found.allowed_extra))
        profile = changes.get("profile", found.profile)
        if body.network is not None:
            changes["network"] = service.network(body.network)
        wider = (
            is_wider(changes.get("network", False), found.network, service.hosts)
            or profile != found.profile
            or not set(extra) <= set(found.allowed_extra)
        )
        service.check(principal, profile, extra, wider=wider)
        if body.members is not None:
            changes["members"] = await service.members(body.members)
        changed = await _named(lambda: service.projects.change(project_id, **changes))
        if changed is None:
            raise Problem.of(unknown_project(project_id))
        await _record(service, Kind.PROJECT_CHANGED, principal, changed)
        return await service.entry(changed)

    @router.delete("/{project_id}", status_code=204, responses=described(403, 404))
    async def delete(principal: Annotated[Principal, reader], project_id: str) -> None:
        """Delete a project. Its workspace and its history remain for the operator."""
        found = await service.own(principal, project_id)
        if not await service.projects.delete(project_id):  # another request was faster
            raise Problem.of(unknown_project(project_id))
        await _record(service, Kind.PROJECT_DELETED, principal, found)


async def _named(work: Callable[[], Awaitable[T]]) -> T:
    """Raise a Problem for an invalid name."""
    try:
        return await work()
    except ValueError as error:
        raise Problem(422, "project.name", f"Invalid project: {error}.") from error


async def _record(service: ProjectService, kind: Kind, principal: Principal, project: Project) -> None:
    fields: dict[str, Any] = {
        "project": project.id,
        "name": project.name,
        "profile": project.profile,
        "allowed_extra": list(project.allowed_extra),
        "network": _shown(project.network),
        "metadata_only": project.metadata_only,
        "members": sorted(project.members),
    }
    await service.access.audit.record(kind, principal.name, principal.address, fields)
