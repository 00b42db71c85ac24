"""Projects: which exist for a caller, who may change them, and how far."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from backend.application.owned import is_owner
from backend.core.audit.events import Kind
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.execution.refusals import unknown_project
from backend.core.identity import PROFILE, NetworkAccess, Permission, Principal, Project
from backend.core.policy.egress import hosts_of, is_wider
from backend.core.ports import AuditLog, Projects


async def find(who: Principal, id: str, projects: Projects) -> Project | Decision:
    """A project that exists for the caller. Raises StorageError."""
    found = await projects.get(id)
    return found if found and found.is_open_to(who) else unknown_project(id)


async def visible_to(who: Principal, projects: Projects) -> Sequence[Project]:
    """The projects that exist for the caller. Raises StorageError."""
    found = await projects.visible_to(who.user) if who.user else ()
    return [project for project in found if project.is_open_to(who)]


def may_change(who: Principal, project: Project) -> bool:
    """Whether the caller may change a project that exists for it: its own, or any for an administrator."""
    mine = who.may(Permission.ADMIN) or is_owner(who, project)
    return mine and who.may(Permission.EXECUTE)


class Users(Protocol):
    """The accounts."""

    async def ids_of(self, names: Iterable[str]) -> Mapping[str, str]:
        """Their ids, without those of unknown names."""
        ...


class Profiles(Protocol):
    """The policies that a project can have."""

    def check_profile(self, profile: str, allowed_extra: Sequence[str]) -> str:
        """Why a project cannot have this profile and these programs; empty if it can."""
        ...


@dataclass(frozen=True, slots=True)
class ProjectService:
    """What clients do with projects. Every method raises StorageError.

    `audit` masks secrets, `add_command` is how an administrator adds an account. `hosts` is the operator's list for new
    projects; `holds_hosts` says whether commands can be held to a list here.
    """

    store: Projects
    users: Users
    profiles: Profiles
    audit: AuditLog
    add_command: str
    hosts: tuple[str, ...] = ()
    holds_hosts: bool = False

    async def visible_to(self, who: Principal) -> Sequence[Project]:
        """The projects that exist for the caller."""
        return await visible_to(who, self.store)

    async def get(self, who: Principal, id: str) -> Project | Decision:
        """A project that exists for the caller."""
        return await find(who, id, self.store)

    async def own(self, who: Principal, id: str) -> Project | Decision:
        """A project that the caller may change."""
        found = await self.get(who, id)
        if isinstance(found, Decision) or may_change(who, found):
            return found
        return Decision.deny("role.forbidden", "Only its owner and administrators can change a project.")

    async def add(self, who: Principal, name: str, given: Mapping[str, Any]) -> Project | Decision:
        """Add a project, which the caller owns. `given` are fields of `Project`; `members` are names of accounts."""
        new = Project("", name, who.account, frozenset(), PROFILE, (), False, False, 0)
        fields = await self._judged(who, given, new)
        if isinstance(fields, Decision):
            return fields
        fields.setdefault("network", self.default_network)
        members = fields.pop("members", None)
        try:
            made = await self.store.add(name, who.account, **fields)
            if members:
                made = await self.store.change(made.id, members=members) or made
        except ValueError as error:
            return _invalid(error)
        await self._record(Kind.PROJECT_CREATED, who, made)
        return made

    async def change(self, who: Principal, id: str, given: Mapping[str, Any]) -> Project | Decision:
        """Change fields of a project; what is not given remains."""
        found = await self.own(who, id)
        fields = found if isinstance(found, Decision) else await self._judged(who, given, found)
        if isinstance(fields, Decision):
            return fields
        try:
            changed = await self.store.change(id, **fields)
        except ValueError as error:
            return _invalid(error)
        if changed is None:
            return unknown_project(id)
        await self._record(Kind.PROJECT_CHANGED, who, changed)
        return changed

    async def delete(self, who: Principal, id: str) -> Project | Decision:
        """Delete a project. Its workspace and its history remain for the operator."""
        found = await self.own(who, id)
        if isinstance(found, Decision):
            return found
        if not await self.store.delete(id):  # another request was faster
            return unknown_project(id)
        await self._record(Kind.PROJECT_DELETED, who, found)
        return found

    @property
    def default_network(self) -> NetworkAccess:
        """That of a project for which none was named."""
        return self.hosts if self.hosts and self.holds_hosts else False

    def network(self, given: bool | Sequence[str]) -> NetworkAccess | Decision:
        """The network as it is stored, unless a list is invalid, or cannot be held here."""
        if isinstance(given, bool):
            return given
        try:
            hosts = tuple(map(str, hosts_of(given)))
        except ValueError as error:
            return Decision.deny("project.network", f"Invalid list of hosts: {error}.")
        if hosts and not self.holds_hosts:
            reason = "Commands cannot be held to a list of hosts here: this needs namespaces (L3)."
            hint = "The protection report of the server says why, and its operator sets GATEPOST_NAMESPACES; true and false remain."
            return Decision.deny("network.rooms", reason, hint)
        return hosts or False

    async def _judged(self, who: Principal, given: Mapping[str, Any], before: Project) -> dict[str, Any] | Decision:
        """The fields as they are stored, unless the caller may not decide them or they are invalid."""
        fields = dict(given)
        if "network" in given:
            network = self.network(given["network"])
            if isinstance(network, Decision):
                return network
            fields["network"] = network
        if refusal := self._policy_refusal(who, fields, before):
            return refusal
        if "members" in given:
            members = await self._members(given["members"])
            if isinstance(members, Decision):
                return members
            fields["members"] = members
        return fields

    def _policy_refusal(self, who: Principal, fields: Mapping[str, Any], before: Project) -> Decision | None:
        """Why a policy is invalid, or wider than the caller may decide."""
        extra, profile = fields.get("allowed_extra", before.allowed_extra), fields.get("profile", before.profile)
        wider = (
            is_wider(fields.get("network", False), before.network, self.hosts)
            or profile != before.profile
            or not set(extra) <= set(before.allowed_extra)
        )
        if wider and not who.may(Permission.ADMIN):
            reason = "Only administrators can grant the network, further programs or another profile."
            return Decision.deny("project.widening", reason)
        why = self.profiles.check_profile(profile, extra)
        return Decision.deny("project.policy", f"Invalid policy: {why}.") if why else None

    async def _members(self, names: Sequence[str]) -> frozenset[str] | Decision:
        """The ids of accounts, unless one of the names does not exist."""
        found = await self.users.ids_of(names)
        for name in names:
            if name not in found:
                hint = f"An administrator adds accounts: `{self.add_command}`."
                return Decision.deny("project.member", f"There is no account {name!r}.", hint)
        return frozenset(found.values())

    async def _record(self, kind: Kind, who: Principal, project: Project) -> None:
        network = project.network
        fields: dict[str, Any] = {
            "project": project.id,
            "name": project.name,
            "profile": project.profile,
            "allowed_extra": list(project.allowed_extra),
            "network": network if isinstance(network, bool) else list(network),
            "metadata_only": project.metadata_only,
            "members": sorted(project.members),
        }
        await self.audit.record(kind, who.name, who.address, fields)


def _invalid(error: ValueError) -> Decision:
    return Decision.deny("project.name", f"Invalid project: {error}.")
