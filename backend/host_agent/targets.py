"""The targets of an agent: its own commands, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from backend.core.decisions import Decision
from backend.core.execution.executor import Executor
from backend.core.execution.targets import OWN, ExecutionLimits, Target, TargetRef
from backend.core.identity import Principal
from backend.core.policy.files import Unseen
from backend.core.policy.profile import Profile
from backend.host_agent.handlers import Handler

ROOT = PurePosixPath("/")  # parameters may name any path: their handlers judge them
OUTPUT_LIMIT = 1 << 20  # bytes; an answer is one message


@dataclass(frozen=True, slots=True)
class HostTargets:
    """Resolves the one target of a host."""

    profile: Profile
    executor: Executor
    handlers: Mapping[str, Handler]

    async def resolve(self, who: Principal, ref: TargetRef) -> Target | Decision:
        """The host itself."""
        if ref != OWN:
            return Decision.deny("target.unknown", f"There is no target {ref} on this host.", "Name none.")
        longest = max(handler.timeout for handler in self.handlers.values())
        limits = ExecutionLimits(longest, longest, OUTPUT_LIMIT, detach_grace=longest)
        return Target(OWN, self.profile, Unseen(ROOT), self.executor, limits)
