"""The targets of an agent: its own commands and, where the operator permits it, lines in one folder."""

from collections.abc import Mapping
from dataclasses import field
from pathlib import PurePosixPath

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.execution.executor import Executor
from backend.core.execution.targets import OWN, ExecutionLimits, Target, TargetRef
from backend.core.hosts.commands import HostCommand
from backend.core.identity import Principal
from backend.core.policy.files import FileView, Unseen
from backend.core.policy.profile import Profile
from backend.host_agent.handlers import Handler, LineHandler

ROOT = PurePosixPath("/")  # parameters may name any path: their handlers judge them


LINES = TargetRef("lines")


def target_of(command: HostCommand, handlers: Mapping[str, Handler]) -> tuple[str, TargetRef]:
    """The line that a command stands for, and the target that it runs on. Raises ValueError for malformed parameters."""
    line = command.params.get("line")
    if isinstance(handlers.get(command.name), LineHandler) and isinstance(line, str) and len(command.params) == 1:
        return line, LINES
    return command.line, OWN


@dataclass(frozen=True, slots=True)
class Lines:
    """Where lines run, and under which policy."""

    profile: Profile
    files: FileView
    executor: Executor


@dataclass(frozen=True, slots=True)
class HostTargets:
    """Resolves the targets of a host. Without `lines` it runs none."""

    profile: Profile
    executor: Executor
    handlers: Mapping[str, Handler]
    lines: Lines | None
    output_limit: int
    _targets: dict[TargetRef, Target] = field(default_factory=dict)

    async def resolve(self, who: Principal, ref: TargetRef) -> Target | Decision:
        """The host itself, or its lines: made once, with what is known of the lines of each."""
        found = self._targets.get(ref) or self._target(ref)
        if found is None:
            return Decision.deny("target.unknown", f"There is no target {ref} on this host.", "Name none.")
        self._targets[ref] = found
        return found

    def _target(self, ref: TargetRef) -> Target | None:
        longest = max(handler.timeout for handler in self.handlers.values())
        limits = ExecutionLimits(longest, longest, self.output_limit, detach_grace=longest)
        if ref == LINES and self.lines:
            return Target(LINES, self.lines.profile, self.lines.files, self.lines.executor, limits)
        return Target(OWN, self.profile, Unseen(ROOT), self.executor, limits) if ref == OWN else None
