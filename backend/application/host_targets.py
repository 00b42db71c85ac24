"""The hosts as targets: which exist for a caller, and what runs there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from backend.core.decisions import Decision
from backend.core.execution.executor import Executor
from backend.core.execution.targets import ExecutionLimits, Target, TargetRef
from backend.core.hosts.naming import is_host_id
from backend.core.hosts.ports import HostDirectory
from backend.core.hosts.registry import HostEntry
from backend.core.hosts.roster import Labels
from backend.core.identity import Permission, Principal
from backend.core.policy.files import Unseen
from backend.core.policy.profile import Profile, ProfileError

ROOT = PurePosixPath("/")  # parameters may name any path: the host judges them again
HOST = "host"


def unknown_host(id: str) -> Decision:
    """The host does not exist for the caller."""
    reason = f"There is no host {id[:64]!r} that you may use."
    return Decision.deny("target.unknown", reason, "GET /api/hosts lists your hosts; ask an administrator.")


@dataclass(frozen=True, slots=True)
class HostTargets:
    """The hosts of a server. `profile` judges commands here, `executor` makes what sends them to a host.

    There is no executor for a host that this server does not trust. `enrolled` are the labels of those that were enrolled.
    """

    directory: HostDirectory
    profile: Profile
    executor: Callable[[HostEntry], Executor | None]
    enrolled: Callable[[], Mapping[str, Labels]]
    limits: ExecutionLimits
    now: Callable[[], float]

    async def visible(self, who: Principal) -> list[HostEntry]:
        """The hosts that exist for the caller. Raises StorageError."""
        if not _may_use(who):
            return []
        found = {entry.id: entry for entry in await self.directory.entries()}
        expected = {id: HostEntry(id, False, 0) for id in self.enrolled() if id not in found}
        every = sorted([*found.values(), *expected.values()], key=lambda entry: entry.id)
        return [entry for entry in every if self.executor(entry)]

    def labels(self, id: str) -> Labels:
        """The labels of a host."""
        return self.enrolled().get(id, {})

    async def find(self, who: Principal, id: str) -> HostEntry | Decision:
        """A host that exists for the caller. Raises StorageError."""
        if not (_may_use(who) and is_host_id(id)):
            return unknown_host(id)
        entry = await self.directory.entry(id) or (HostEntry(id, False, 0) if id in self.enrolled() else None)
        return entry if entry and self.executor(entry) else unknown_host(id)

    async def resolve(self, who: Principal, id: str) -> Target | Decision:
        """The target of a host. Raises StorageError."""
        entry = await self.find(who, id)
        if isinstance(entry, Decision):
            return entry
        executor = self.executor(entry)
        if executor is None:
            return unknown_host(id)
        return Target(
            ref=TargetRef(HOST, id),
            profile=self._profile(entry),
            files=Unseen(ROOT),
            executor=executor,
            limits=self.limits,
        )

    def _profile(self, entry: HostEntry) -> Profile:
        """The commands that every host may have, and those that this one says it has: it judges them itself."""
        profile = self.profile
        for name in entry.capabilities:
            if name not in profile.programs:
                try:
                    profile = profile.with_extra([name])
                except ProfileError:
                    continue
        return profile


def _may_use(who: Principal) -> bool:
    """Hosts are for administrators."""
    return who.may(Permission.ADMIN)
