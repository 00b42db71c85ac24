"""How servers reach each other's executions.

A server joins the bus under its own id, for what it runs, and under the id of its data folder, for what is recorded
there. Other servers reach an execution through the bus; a server that does not answer is reported as a value.
"""

from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol

from backend.core.execution.model import Delivery, Instruction
from backend.core.recording.reader import Send


class Relay(StrEnum):
    """How a recording of another server was passed on.

    `ended`: all of it. `unknown`: that server has no such recording. `unreachable`: that server does not answer, or no
    longer does.
    """

    ENDED = "ended"
    UNKNOWN = "unknown"
    UNREACHABLE = "unreachable"


class LocalExecutions(Protocol):
    """What a server does for the other servers."""

    async def deliver(self, execution: str, instruction: Instruction) -> Delivery:
        """Deliver an instruction to an execution of this server."""
        ...

    async def follow_here(self, execution: str, after_seq: int, send: Send) -> bool:
        """Send what is recorded here after `after_seq`, live, until the end. False when there is no recording.

        Raises OSError if it cannot be read.
        """
        ...

    async def copy_here(self, execution: str, send: Send, begin: int, end: int | None) -> int | None:
        """Send what is stored here now between two offsets in bytes; returns the offset after what was sent.

        Returns None when there is no recording. Raises OSError if it cannot be read.
        """
        ...


class ExecutionBus(Protocol):
    """Reaches the executions of other servers. No method raises because a server or the bus is unavailable."""

    def joined(self, owner: str, folder: str, local: LocalExecutions) -> AbstractAsyncContextManager[None]:
        """Answer for this server within the context. While the bus is unavailable, joining is retried."""
        ...

    async def instruct(self, owner: str, execution: str, instruction: Instruction) -> Delivery:
        """Deliver an instruction, at most once, to an execution of the server `owner`."""
        ...

    async def follow(self, address: str, execution: str, after_seq: int, send: Send) -> Relay:
        """As `LocalExecutions.follow_here`, by the server with this id, or by any server of the folder with this id."""
        ...

    async def copy(self, folder: str, execution: str, send: Send, begin: int, end: int | None) -> int | Relay:
        """As `LocalExecutions.copy_here`, by any server of the data folder `folder`."""
        ...

    async def check(self) -> bool:
        """Whether other servers can be reached."""
        ...
