"""How servers reach executions of each other.

A server joins the bus under its own id, for what it runs, and under the id of its data folder, for what is recorded
there. Whoever does not run an execution asks through the bus; a server that does not answer is a value, not an error.
"""

from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol

from backend.core.execution.model import Delivery, Instruction
from backend.core.recording.reader import Send


class Relay(StrEnum):
    """How a recording of another server was passed on.

    `ended`: all of it. `unknown`: that server has no such recording. `unreachable`: it does not answer (any more).
    """

    ENDED = "ended"
    UNKNOWN = "unknown"
    UNREACHABLE = "unreachable"


class LocalExecutions(Protocol):
    """What a server answers for the others."""

    def deliver(self, execution: str, instruction: Instruction) -> Delivery:
        """Hand an instruction to an execution of this server."""
        ...

    async def follow_here(self, execution: str, after_seq: int, send: Send) -> bool:
        """Send what is recorded here after `after_seq`, live, until the end. False when there is no recording.

        Raises OSError where it cannot be read.
        """
        ...

    async def copy_here(self, execution: str, send: Send, begin: int, end: int | None) -> int | None:
        """Send what is stored here now between two places (bytes of what is stored); the place behind what was sent.

        None when there is no recording. Raises OSError where it cannot be read.
        """
        ...


class ExecutionBus(Protocol):
    """Reaches the executions of other servers. No method raises because a server or the bus itself is away."""

    def joined(self, owner: str, folder: str, local: LocalExecutions) -> AbstractAsyncContextManager[None]:
        """Answer for this server meanwhile. Starts also while the bus is away, and joins as soon as it is back."""
        ...

    async def instruct(self, owner: str, execution: str, instruction: Instruction) -> Delivery:
        """Hand an instruction to an execution of the server `owner`: delivered at most once."""
        ...

    async def follow(self, folder: str, execution: str, after_seq: int, send: Send) -> Relay:
        """As `LocalExecutions.follow_here`, by any server of the data folder `folder`."""
        ...

    async def copy(self, folder: str, execution: str, send: Send, begin: int, end: int | None) -> int | Relay:
        """As `LocalExecutions.copy_here`, by any server of the data folder `folder`."""
        ...

    async def check(self) -> bool:
        """Whether other servers can be reached."""
        ...
