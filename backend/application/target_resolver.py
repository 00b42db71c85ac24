"""Where whose commands run: the terminal's workspace, those of the projects, and the profiles that judge there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backend.core.errors import StorageError
from backend.core.execution.targets import Target, Workspace
from backend.core.identity import Permission, Principal, Project
from backend.core.policy.profile import Profile, ProfileError
from backend.core.ports import ExecutionHistory, Projects
from backend.executors.local.workspace import FolderWorkspace
from backend.policies.loader import load_profile


@dataclass(slots=True)
class Places:
    """The directory of this server.

    `visitors` is where those without an account are; `folder` holds a workspace for each account and project, made by
    `prepare`; `live_owner` tells who started what runs here now.
    """

    visitors: Target
    projects: Projects
    history: ExecutionHistory
    folder: Path
    prepare: Callable[[Path], None]
    live_owner: Callable[[str], Principal | None]
    _workspaces: dict[str, Workspace] = field(default_factory=dict)
    _profiles: dict[str, Profile] = field(default_factory=dict)

    async def target(self, principal: Principal, project: str | None) -> Target | None:
        """Where a principal's commands run; None when there is no such place for it. Raises StorageError."""
        if project is not None:
            found = await self.projects.get(project)
            return self._project_target(found) if found and found.is_open_to(principal) else None
        if principal.user is None:
            return self.visitors
        profile = self._profile(principal.user.profile)
        return Target(profile, self._workspace(f"accounts/{principal.user.id}")) if profile else None

    def _project_target(self, project: Project) -> Target | None:
        try:
            profile = self._profile(project.profile)
            judged = profile.with_extra(project.allowed_extra) if profile else None
        except ProfileError:
            return None
        workspace = self._workspace(f"projects/{project.id}")
        if judged is None:
            return None
        return Target(judged, workspace, project.id, project.network, project.metadata_only)

    def _workspace(self, name: str) -> Workspace:
        if name not in self._workspaces:
            folder = self.folder / name
            try:
                self.prepare(folder)
            except OSError as error:
                raise StorageError(f"The workspace cannot be made: {error.strerror}.") from error
            self._workspaces[name] = FolderWorkspace(folder)
        return self._workspaces[name]

    def _profile(self, name: str) -> Profile | None:
        """A profile by its name; that of the visitors may be a file, and is known by its own name too."""
        if name == self.visitors.profile.name:
            return self.visitors.profile
        if name not in self._profiles:
            try:
                self._profiles[name] = load_profile(name)
            except ProfileError:
                return None
        return self._profiles[name]

    def check_profile(self, profile: str, allowed_extra: Sequence[str]) -> str:
        """Why a project cannot have these, empty when it can."""
        known = None if "/" in profile or profile.endswith(".toml") else self._profile(profile)
        if known is None:
            return f"there is no profile {profile!r}"
        try:
            known.with_extra(allowed_extra)
        except ProfileError as error:
            return str(error)
        return ""

    async def may_watch(self, principal: Principal, execution: str) -> bool:
        """Whether a principal may look at an execution. Raises StorageError.

        A visitor's is open to whoever knows its id; that of an account to itself, its project and administrators. One
        that the history has forgotten was anybody's, so only administrators still see it.
        """
        if not principal.may(Permission.READ):
            return False
        owner = self.live_owner(execution)
        if owner is not None and (owner.user is None or owner.name == principal.name):
            return True
        record = await self.history.get(execution)
        if record is None or principal.may(Permission.ADMIN):
            return principal.may(Permission.ADMIN)
        if record.user_id is None:
            return True
        if principal.user is None:
            return False
        if principal.user.id == record.user_id:
            return True
        project = await self.projects.get(record.project_id) if record.project_id else None
        return project is not None and project.is_open_to(principal)
