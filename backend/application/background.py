"""What lines ask for in the background: executions of their own, of the same principal in the same place."""

import asyncio

from backend.application.executions import ExecutionService
from backend.application.submission import CommandSpec
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.execution.background import Seen
from backend.core.execution.model import Delivery, Instruction, Job
from backend.core.execution.refusals import failed, unknown
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused, Request
from backend.core.execution.sessions import Kept, Session
from backend.core.identity import Principal
from backend.core.policy.line_state import LineState


@dataclass(slots=True)
class Background:
    """A front over the service for the lines that run here: who asks is the principal of the line.

    `service` is set once there is one, because it starts the lines.
    """

    service: ExecutionService | None = None

    async def start(self, job: Job, line: str, state: LineState) -> str | Decision:
        """Start an execution of its own. It runs without a viewer, for as long as its principal may have commands run."""
        asking = self._live(job.execution)
        if asking is None or self.service is None:
            return failed()
        request = asking.request
        spec = _spec(request, line, state, detached=not asking.left)
        submitted = await self.service.submit(request.principal, spec)
        return submitted.decision if isinstance(submitted, Refused) else submitted.id

    async def instruct(self, job: Job, execution: str, instruction: Instruction) -> Delivery | Decision:
        """Deliver an instruction by the rule of all instructions."""
        asking = self._live(job.execution)
        if asking is None or self.service is None:
            return unknown(execution)
        return await self.service.instruct(asking.request.principal, execution, instruction)

    def running(self, job: Job) -> frozenset[str]:
        """The executions of the principal that run here, but for the line itself."""
        live = self.service.local.registry.live if self.service else {}
        return frozenset(id for id, each in live.items() if each.request.principal.name == job.actor.name) - {
            job.execution
        }

    async def seen(self, execution: str) -> Seen | None:
        """The state of an execution."""
        record = await self.service.history.get(execution) if self.service else None
        return Seen(record.status, record.exit_code, record.command) if record else None

    async def end(self, execution: str) -> None:
        """Wait until an execution has ended here."""
        live = self._live(execution)
        if live and live.task:
            await asyncio.wait({live.task})

    def leave(self, visitor: Principal) -> None:
        """The connection of a visitor has ended: what it has started in the background ends as its other executions do."""
        if self.service is None:
            return
        registry = self.service.local.registry
        for execution in registry.live.values():
            if execution.request.principal.name == visitor.name:
                execution.leave()

    def _live(self, execution: str) -> Execution | None:
        return self.service.local.registry.find(execution) if self.service else None


def _spec(request: Request, line: str, state: LineState, *, detached: bool) -> CommandSpec:
    """The command that a line starts: it begins in the state of the line, and what it leaves is kept nowhere."""
    who, target = request.principal, request.target
    session = Session()
    session.keep(who.name, str(target.ref), Kept(state.folder(target.files.root), state))
    return CommandSpec(
        line,
        target.ref,
        timeout=target.limits.longest if who.user else None,
        detached=detached,
        metadata_only=request.metadata_only,
        session=session,
    )
