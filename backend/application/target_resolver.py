"""Finds targets: the terminal's workspace, those of accounts and projects, and the profiles that apply there."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import field
from typing import Protocol

from backend.application import projects
from backend.application.django_targets import DjangoTargets
from backend.application.host_targets import HOST, HostTargets
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.executor import Executor
from backend.core.execution.refusals import unknown_project
from backend.core.execution.targets import OWN, ExecutionLimits, Target, TargetRef
from backend.core.identity import Principal, Project, User
from backend.core.policy.egress import Egress, network_of
from backend.core.policy.files import FileView
from backend.core.policy.profile import OFFLINE, Profile, ProfileError
from backend.core.ports import Projects

MOST_KNOWN = 1000  # targets that are kept


class LocalPlaces(Protocol):
    """Makes the local workspaces and the executors that run commands in them."""

    def workspace(self, name: str) -> FileView:
        """The workspace with this name, created if it is missing. Raises OSError."""
        ...

    def executor(self, profile: Profile, files: FileView, *, network: bool | Egress) -> Executor:
        """The executor that runs lines there, with the machine's network or with listed hosts alone."""
        ...

    def of_visitor(self, files: FileView, visitor: str) -> FileView:
        """The workspace of visitors as one of them has it."""
        ...

    def leave(self, visitor: str) -> None:
        """Forget what was one visitor's."""
        ...


def _unknown(name: str) -> Decision:
    return Decision.deny("target.unknown", f"There is no target {name} that you may use.", "Name a project, or none.")


def _ambiguous(name: str) -> Decision:
    reason = f"There are a host and a Django project with the name {name}."
    return Decision.deny("target.ambiguous", reason, f"Write @host:{name} or @django:{name}.")


@dataclass(slots=True)
class TargetResolver:
    """The targets of this server. Clients without an account get `visitors_files` and `visitors_profile`.

    `holds_hosts`: whether commands can be held to a list of hosts here.
    """

    visitors_profile: Profile
    visitors_files: FileView
    projects: Projects
    places: LocalPlaces
    limits: ExecutionLimits
    load_profile: Callable[[str], Profile]
    hosts: HostTargets | None = None
    holds_hosts: bool = False
    django: DjangoTargets | None = None
    _workspaces: dict[str, FileView] = field(default_factory=dict)
    _profiles: dict[str, Profile] = field(default_factory=dict)
    _targets: dict[Hashable, Target] = field(default_factory=dict)

    def reachable(self) -> frozenset[TargetRef]:
        """The targets of which executions may wait for this server: enrolled hosts, whose commands outlive a server.

        Raises StorageError.
        """
        return frozenset(TargetRef(HOST, id) for id in self.hosts.enrolled()) if self.hosts else frozenset()

    async def resolve(self, who: Principal, ref: TargetRef) -> Target | Decision:
        """The target, or why it does not exist for the caller. Raises StorageError.

        To add a kind of target, add a case here.
        """
        match ref:
            case TargetRef("local", ""):
                return self._own(who)
            case TargetRef("project", id):
                project = await projects.find(who, id, self.projects)
                if isinstance(project, Decision):
                    return project
                return self._known(project, lambda: self._of_project(project)) or unknown_project(id)
            case TargetRef("host", id) if self.hosts:
                return await self.hosts.resolve(who, id)
            case TargetRef("django", name) if self.django:
                return await self.django.resolve(who, name)
            case TargetRef("named", name):
                return await self._named(who, name)
            case _:
                return _unknown(str(ref))

    async def _named(self, who: Principal, name: str) -> Target | Decision:
        """The host or the Django project with a name, whichever exists for the caller; neither if both do."""
        host = await self.hosts.resolve(who, name) if self.hosts else _unknown(name)
        if self.django is None:
            return host
        django = await self.django.resolve(who, name)
        if isinstance(host, Target) and isinstance(django, Target):
            return _ambiguous(name)
        return django if isinstance(django, Target) or self.hosts is None else host

    def leave(self, visitor: Principal) -> None:
        """The connection of a visitor has ended."""
        self._targets.pop(visitor.name, None)
        self.places.leave(visitor.name)

    def _known(self, key: Hashable, make: Callable[[], Target | None]) -> Target | None:
        """A target that is made once, with what is known of its lines."""
        if key not in self._targets and (made := make()):
            if len(self._targets) >= MOST_KNOWN:
                self._targets.clear()
            self._targets[key] = made
        return self._targets.get(key)

    def _own(self, who: Principal) -> Target | Decision:
        user = who.user
        key = (user.id, user.profile) if user else who.name
        found = self._known(key, lambda: self._of_account(user) if user else self._of_visitor(who.name))
        if found:
            return found
        reason = f"The profile {user.profile if user else ''!r} of this account does not exist."
        return Decision.deny("target.unknown", reason, "Ask an administrator for another profile.")

    def _of_visitor(self, name: str) -> Target:
        return self._target(OWN, self.visitors_profile, self.places.of_visitor(self.visitors_files, name))

    def _of_account(self, user: User) -> Target | None:
        profile = self._profile(user.profile)
        return self._target(OWN, profile, self._workspace(f"accounts/{user.id}")) if profile else None

    def _of_project(self, project: Project) -> Target | None:
        try:
            profile = self._profile(project.profile)
            judged = profile.with_extra(project.allowed_extra) if profile else None
        except ProfileError:
            return None
        files = self._workspace(f"projects/{project.id}")
        return self._target(TargetRef("project", project.id), judged, files, project) if judged else None

    def _target(self, ref: TargetRef, profile: Profile, files: FileView, project: Project | None = None) -> Target:
        network, offline = network_of(project.network, project.id, self.holds_hosts) if project else (False, OFFLINE)
        return Target(
            ref=ref,
            profile=profile,
            files=files,
            executor=self.places.executor(profile, files, network=network),
            limits=self.limits,
            project=project.id if project else None,
            network=bool(network),
            offline=offline,
            metadata_only=bool(project and project.metadata_only),
        )

    def _workspace(self, name: str) -> FileView:
        if name not in self._workspaces:
            try:
                self._workspaces[name] = self.places.workspace(name)
            except OSError as error:
                raise StorageError(f"The workspace cannot be created: {error.strerror}.") from error
        return self._workspaces[name]

    def _profile(self, name: str) -> Profile | None:
        """A profile by its name; that of the visitors may be a file, and is found by its own name too."""
        if name == self.visitors_profile.name:
            return self.visitors_profile
        if name not in self._profiles:
            try:
                self._profiles[name] = self.load_profile(name)
            except ProfileError:
                return None
        return self._profiles[name]

    def check_profile(self, profile: str, allowed_extra: Sequence[str]) -> str:
        """Why a project cannot have this profile and these programs; empty if it can."""
        if "/" in profile or profile.endswith(".toml"):
            return f"{profile!r} is not the name of a profile"
        try:
            (self._profile(profile) or self.load_profile(profile)).with_extra(allowed_extra)
        except ProfileError as error:
            return str(error)
        return ""
