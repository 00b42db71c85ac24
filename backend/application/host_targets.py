"""The hosts as targets: which exist for a caller, and what runs there."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import PurePosixPath

from backend.application import projects
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.execution.executor import Executor
from backend.core.execution.targets import ExecutionLimits, Target, TargetRef
from backend.core.hosts.naming import is_host_id
from backend.core.hosts.ports import HostDirectory
from backend.core.hosts.registry import HostEntry
from backend.core.hosts.roster import Grant, Labels, matches
from backend.core.identity import Permission, Principal, Project
from backend.core.policy.files import Unseen
from backend.core.policy.profile import Profile, ProfileError
from backend.core.policy.verdicts import Verdicts
from backend.core.ports import Projects

ROOT = PurePosixPath("/")  # parameters may name any path: the host judges them again
HOST = "host"
MOST_PROFILES = 64  # that are remembered, for hosts with the same commands


def unknown_host(id: str) -> Decision:
    """The host does not exist for the caller."""
    reason = f"There is no host {id[:64]!r} that you may use."
    if set(id) & set(",="):  # meant for several
        hint = "Name one host. Several, or all with a label, can be chosen on the page of the hosts or by the API."
    else:
        hint = "The list of hosts names yours; ask an administrator."
    return Decision.deny("target.unknown", reason, hint)


@dataclass(frozen=True, slots=True)
class HostTargets:
    """The hosts of a server. `profile` judges commands here, `executor` makes what sends them to a host.

    There is no executor for a host that this server does not trust. `enrolled` are the labels of those that were enrolled.
    Hosts exist for administrators, and for the accounts and the projects that `grants` name.
    """

    directory: HostDirectory
    profile: Profile
    executor: Callable[[HostEntry], Executor | None]
    enrolled: Callable[[], Mapping[str, Labels]]
    grants: Callable[[], Sequence[Grant]]
    projects: Projects
    limits: ExecutionLimits
    now: Callable[[], float]
    profiles: dict[tuple[str, ...], tuple[Profile, Verdicts]] = field(default_factory=dict)

    async def visible(self, who: Principal) -> list[HostEntry]:
        """The hosts that exist for the caller. Raises StorageError."""
        rights = await self._rights(who)
        return [entry for entry in await self.every() if self._is_open(entry.id, rights)] if rights else []

    async def every(self) -> list[HostEntry]:
        """The hosts that this server trusts. Raises StorageError."""
        found = {entry.id: entry for entry in await self.directory.entries()}
        expected = {id: HostEntry(id, False, 0) for id in self.enrolled() if id not in found}
        every = sorted([*found.values(), *expected.values()], key=lambda entry: entry.id)
        return [entry for entry in every if self.executor(entry)]

    def labels(self, id: str) -> Labels:
        """The labels of a host."""
        return self.enrolled().get(id, {})

    async def find(self, who: Principal, id: str) -> HostEntry | Decision:
        """A host that exists for the caller. Raises StorageError."""
        found = await self._reached(who, id)
        return found if isinstance(found, Decision) else found[0]

    async def _reached(self, who: Principal, id: str) -> tuple[HostEntry, Executor] | Decision:
        """The same, with what sends commands to it."""
        if not (is_host_id(id) and self._is_open(id, await self._rights(who))):
            return unknown_host(id)
        entry = await self.directory.entry(id) or (HostEntry(id, False, 0) if id in self.enrolled() else None)
        executor = self.executor(entry) if entry else None
        return (entry, executor) if entry and executor else unknown_host(id)

    async def _rights(self, who: Principal) -> list[Labels]:
        """The selectors of the hosts that the caller may use. Raises StorageError."""
        if who.may(Permission.ADMIN):
            return [{}]
        if who.user is None:
            return []
        return [grant.labels for grant in self.grants() if await self._is_for(grant, who)]

    async def _is_for(self, grant: Grant, who: Principal) -> bool:
        kind, _, name = grant.to.partition(":")
        if kind == "project":
            return isinstance(await projects.find(who, name, self.projects), Project)
        return kind == "user" and who.user is not None and who.user.name == name

    def _is_open(self, id: str, rights: Sequence[Labels]) -> bool:
        labels = self.labels(id)
        return any(matches(labels, selector) for selector in rights)

    async def resolve(self, who: Principal, id: str) -> Target | Decision:
        """The target of a host. Raises StorageError."""
        found = await self._reached(who, id)
        if isinstance(found, Decision):
            return found
        entry, executor = found
        profile, verdicts = self._judged(entry)
        return Target(
            ref=TargetRef(HOST, id),
            profile=profile,
            files=Unseen(ROOT),
            executor=executor,
            limits=self.limits,
            verdicts=verdicts,
        )

    def _judged(self, entry: HostEntry) -> tuple[Profile, Verdicts]:
        """How lines of a host are judged, and what is known of them: as those of all hosts with the same commands."""
        found = self.profiles.get(entry.capabilities)
        if found is None:
            if len(self.profiles) >= MOST_PROFILES:
                self.profiles.clear()
            found = self.profiles[entry.capabilities] = self._profile(entry), Verdicts()
        return found

    def _profile(self, entry: HostEntry) -> Profile:
        """The commands that every host may have, and those that this one says it has: it judges them itself."""
        profile = self.profile
        for name in entry.capabilities:
            if name not in profile.programs:
                with suppress(ProfileError):
                    profile = profile.with_extra([name])
        return profile
