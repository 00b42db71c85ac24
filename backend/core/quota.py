"""How much a workspace may hold, so that one project cannot use up the disk of all."""

from backend.core.dataclasses import dataclass
from backend.core.execution.model import StopReason
from backend.core.figures import size_text

CONSEQUENCE = "Files can be read and deleted; nothing can be written."


@dataclass(frozen=True, slots=True)
class WorkspaceUsage:
    """What a workspace holds: bytes on the disk, and the number of files, folders and links.

    `hidden`: a part could not be measured, since a folder is closed to the service or nested too deeply.
    """

    bytes: int
    files: int
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Quota:
    """Bytes and files that a workspace may hold (0 bytes: no limit), and bytes that must stay free on its disk."""

    bytes: int
    files: int
    margin: int

    @property
    def is_limited(self) -> bool:
        """Whether workspaces have to be measured at all."""
        return self.bytes > 0

    def breach(self, usage: WorkspaceUsage | None, free: int) -> StopReason | None:
        """The limit exceeded, as the reason to stop commands that write; not that of a workspace still to be measured."""
        if free < self.margin:
            return StopReason.DISK_FULL
        full = usage and (usage.hidden or usage.bytes > self.bytes or usage.files > self.files)
        return StopReason.WORKSPACE_FULL if self.is_limited and full else None

    def notice(self, usage: WorkspaceUsage | None, free: int) -> str:
        """The message to a command that starts in a full workspace."""
        if free < self.margin:
            return f"The disk of the server has less than {size_text(self.margin)} left. {CONSEQUENCE}"
        if usage is None:
            return f"The workspace has not been measured yet, so it counts as full. {CONSEQUENCE} Try again."
        if usage.hidden:
            return f"The workspace hides folders that cannot be measured, so it counts as full. {CONSEQUENCE}"
        held = f"{size_text(usage.bytes)} of {size_text(self.bytes)}, {usage.files} of {self.files} files"
        return f"The workspace is full: {held}. {CONSEQUENCE}"


NO_QUOTA = Quota(0, 0, 0)
