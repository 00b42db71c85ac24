"""Projects in memory."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import field

from backend.core.dataclasses import dataclass, replace
from backend.core.identity import PROFILE, NetworkAccess, Project, Role, User
from backend.storage.identities import NO_USER, checked_name
from backend.storage.memory.identities import MemoryIdentities
from backend.storage.projects import LONGEST_NAME


@dataclass(frozen=True, slots=True)
class MemoryProjects:
    """The projects that were not deleted, of the accounts in `identities`; see `Projects`."""

    identities: MemoryIdentities
    now_ms: Callable[[], int]
    new_id: Callable[[], str]
    _projects: dict[str, Project] = field(default_factory=dict)

    async def add(
        self,
        name: str,
        owner_id: str,
        profile: str = PROFILE,
        allowed_extra: Iterable[str] = (),
        network: NetworkAccess = False,
        metadata_only: bool = False,
    ) -> Project:
        """Add a project. Raises ValueError for an invalid name or an unknown owner."""
        await self._check_users({owner_id})
        project = Project(
            id=self.new_id(),
            name=checked_name(name, LONGEST_NAME),
            owner_id=owner_id,
            members=frozenset(),
            profile=checked_name(profile),
            allowed_extra=tuple(allowed_extra),
            network=network or False,
            metadata_only=metadata_only,
            created_ms=self.now_ms(),
        )
        self._projects[project.id] = project
        return project

    async def get(self, id: str) -> Project | None:
        """The project with this id, None when there is none or it was deleted."""
        return self._projects.get(id)

    async def visible_to(self, user: User) -> Sequence[Project]:
        """The projects that exist for `user`, the oldest first."""
        found = (project for _, project in sorted(self._projects.items()))
        if user.role is Role.ADMIN:
            return list(found)
        return [project for project in found if user.id == project.owner_id or user.id in project.members]

    async def change(
        self,
        id: str,
        *,
        name: str | None = None,
        profile: str | None = None,
        allowed_extra: Iterable[str] | None = None,
        network: NetworkAccess | None = None,
        metadata_only: bool | None = None,
        members: frozenset[str] | None = None,
    ) -> Project | None:
        """Change the given fields; returns the changed project, None if there is none."""
        found = self._projects.get(id)
        if found is None:
            return None
        members = found.members if members is None else members - {found.owner_id}
        await self._check_users(members)
        self._projects[id] = replace(
            found,
            name=found.name if name is None else checked_name(name, LONGEST_NAME),
            profile=found.profile if profile is None else checked_name(profile),
            allowed_extra=found.allowed_extra if allowed_extra is None else tuple(allowed_extra),
            network=found.network if network is None else network or False,
            metadata_only=found.metadata_only if metadata_only is None else metadata_only,
            members=members,
        )
        return self._projects[id]

    async def delete(self, id: str) -> bool:
        """Delete a project; False when there is none."""
        return self._projects.pop(id, None) is not None

    async def _check_users(self, ids: Iterable[str]) -> None:
        for id in ids:
            if await self.identities.user(id) is None:
                raise ValueError(NO_USER)
