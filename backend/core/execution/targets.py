"""Where a command runs: under which policy, by which executor, within which limits."""

import re
from dataclasses import field
from typing import NamedTuple

from backend.core.dataclasses import dataclass
from backend.core.execution.executor import Executor
from backend.core.policy.files import FileView
from backend.core.policy.profile import OFFLINE, Offline, Profile
from backend.core.policy.verdicts import Verdicts

NAME = "[A-Za-z0-9._-]{1,64}"
TARGET_PATTERN = f"^[a-z][a-z0-9-]{{0,31}}(:{NAME})?$"
PROJECT_PATTERN = f"^{NAME}$"


class TargetRef(NamedTuple):
    """The name of a target: `local` is the caller's own workspace, `project:01J…` a project.

    Its text is at most 97 characters long and matches TARGET_PATTERN; the history has a column for it.
    """

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind

    @classmethod
    def parse(cls, text: str) -> "TargetRef":
        """The name with this text. Raises ValueError."""
        if not re.fullmatch(TARGET_PATTERN, text):
            raise ValueError("expected the kind of a target and its name, for example project:01J5")
        kind, _, name = text.partition(":")
        return cls(kind, name)


OWN = TargetRef("local")
NAMED = "named"  # the kind of a target that is known by its name only: a host, or a Django project
# `@web-01 git_status ...`, `@shop migrate`: the name of a host or of a Django project before its command, or its full
# target where both have the name: `@django:shop migrate`.
ADDRESSED = re.compile(r"\s*@(?:(host|django):)?(\S{1,64})[ \t]+(.*)", re.S)


def addressed(line: str, target: TargetRef) -> tuple[str, TargetRef]:
    """The command and the target of a line that may name one; a target that was named apart from it remains."""
    found = ADDRESSED.fullmatch(line) if target == OWN else None
    return (found[3], TargetRef(found[1] or NAMED, found[2])) if found else (line, target)


def project_ref(project: str) -> TargetRef:
    """The target of a project."""
    return TargetRef("project", project)


def target_ref(project: str | None, target: str | None) -> TargetRef:
    """The target that a client names by its project or by its text; its own workspace if it names none.

    Raises ValueError if it names both, or the text is not that of a target.
    """
    if project is not None and target is not None:
        raise ValueError("name a project or a target, not both")
    if target is not None:
        return TargetRef.parse(target)
    return OWN if project is None else project_ref(project)


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
    a server that reaches the target claims it; the others are started by the server that admits them. `verdicts` are what
    is known of its lines; targets that are judged alike may share them.
    """

    ref: TargetRef
    profile: Profile
    files: FileView
    executor: Executor
    limits: ExecutionLimits
    project: str | None = None
    network: bool = False
    offline: Offline = OFFLINE
    metadata_only: bool = False
    waits: bool = False
    verdicts: Verdicts = field(default_factory=Verdicts, compare=False, repr=False)
