"""Where a command runs: under which policy, by which executor, within which limits."""

from dataclasses import dataclass
from typing import NamedTuple

from backend.core.execution.executor import Executor
from backend.core.policy.files import FileView
from backend.core.policy.profile import Profile


class TargetRef(NamedTuple):
    """The name of a target: `local` is the caller's own workspace, `project:01J…` a project."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


OWN = TargetRef("local")


def project_ref(project: str | None) -> TargetRef:
    """A project, or the caller's own workspace if none is named."""
    return OWN if project is None else TargetRef("project", project)


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    """Bounds of one execution: seconds to run, bytes of output, seconds without a viewer.

    `longest` is the timeout in seconds that an account may ask for; a visitor gets at most `timeout`.
    """

    timeout: float
    longest: float
    output_limit: int
    detach_grace: float


@dataclass(frozen=True, slots=True)
class Target:
    """A resolved target.

    With `metadata_only` its output is neither stored nor shown. An execution of a target that `waits` is queued until
    a process that can reach the target asks for it; the others are started by the server that admits them.
    """

    ref: TargetRef
    profile: Profile
    files: FileView
    executor: Executor
    limits: ExecutionLimits
    project: str | None = None
    network: bool = False
    metadata_only: bool = False
    waits: bool = False
