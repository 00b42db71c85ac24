"""The Django projects as targets: which exist for a caller, and which commands they have."""

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from backend.application import projects
from backend.application.runners import target_of
from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.django.ports import RunnerKey, RunnerStore
from backend.core.execution.executor import Executor
from backend.core.execution.targets import ExecutionLimits, Target
from backend.core.identity import Principal, Project
from backend.core.policy.files import Unseen
from backend.core.policy.profile import Profile, ProfileError
from backend.core.ports import Projects

# The files of the project are elsewhere. Paths in a line are relative to the folder of manage.py, which this stands for.
ROOT = PurePosixPath("/project")
NOT_OFFERED = "no runner of this project offers it"


def unknown_django(name: str) -> Decision:
    """The Django project does not exist for the caller."""
    reason = f"There is no Django project {name[:64]!r} that you may use."
    return Decision.deny("target.unknown", reason, "The list of Django projects names yours.")


@dataclass(frozen=True, slots=True)
class DjangoProject:
    """A project with the keys of its runners."""

    project: Project
    keys: tuple[RunnerKey, ...]


@dataclass(frozen=True, slots=True)
class DjangoTargets:
    """The Django projects of a server: those projects that have keys for runners."""

    projects: Projects
    runners: RunnerStore
    profile: Profile
    executor: Executor
    limits: ExecutionLimits
    now_ms: Callable[[], int]

    async def visible(self, who: Principal) -> list[DjangoProject]:
        """The Django projects that exist for the caller. Raises StorageError."""
        found = await projects.visible_to(who, self.projects)
        keys: dict[str, list[RunnerKey]] = {}
        for key in await self.runners.keys([each.id for each in found]):
            keys.setdefault(key.project, []).append(key)
        return [DjangoProject(each, tuple(keys[each.id])) for each in found if each.id in keys]

    async def find(self, who: Principal, name: str) -> Project | Decision:
        """A project that exists for the caller, by its id or by its name. Raises StorageError.

        It need not have a runner yet.
        """
        found = await projects.find(who, name, self.projects)
        if isinstance(found, Project):
            return found
        named = [each for each in await projects.visible_to(who, self.projects) if each.name == name]
        if len(named) > 1:
            ids = ", ".join(each.id for each in named)
            reason = f"There are {len(named)} projects with the name {name[:64]!r} that you may use."
            return Decision.deny("target.unknown", reason, f"Name one by its id: {ids}.")
        return named[0] if named else unknown_django(name)

    async def resolve(self, who: Principal, name: str) -> Target | Decision:
        """The target of a Django project. Raises StorageError."""
        project = await self.find(who, name)
        if isinstance(project, Decision):
            return project
        if not any(key.is_valid(self.now_ms()) for key in await self.runners.keys([project.id])):
            reason = f"The project {project.name!r} has no runner: no key was created for one."
            return Decision.deny(
                "target.unknown",
                reason,
                "Its owner creates one on the page or by the API, an operator by the command `runner key create`.",
            )
        return Target(
            ref=target_of(project.id),
            profile=await self.profile_of(project),
            files=Unseen(ROOT),
            executor=self.executor,
            limits=self.limits,
            project=project.id,
            metadata_only=project.metadata_only,
            waits=True,
        )

    async def profile_of(self, project: Project) -> Profile:
        """The profile of Django with the additional commands of the project, without what its runners do not offer."""
        profile = self.profile
        for name in project.allowed_extra:
            try:
                profile = profile.with_extra([name])
            except ProfileError:
                continue  # blocked here, though not in the workspace of the project
        offered = await self.runners.commands(project.id)
        if offered is None:
            return profile
        names = offered.names
        missing: Mapping[str, str] = {name: NOT_OFFERED for name in profile.programs if name not in names}
        programs = {name: program for name, program in profile.programs.items() if name in names}
        return replace(profile, programs=programs, blocked_programs={**missing, **profile.blocked_programs})
