"""How much a workspace may hold, so that one project cannot take the disk of all."""

from dataclasses import dataclass

from backend.core.execution.model import StopReason

CONSEQUENCE = "Files can be read and deleted; nothing can be written."


@dataclass(frozen=True, slots=True)
class Fill:
    """What a workspace holds: bytes on the disk, and files, folders and links.

    `hidden` says that a part could not be looked at: a folder that is closed to the service, or too deep.
    """

    bytes: int
    files: int
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Quota:
    """Bytes and files that a workspace may hold, 0 bytes for any, and bytes that are to stay free on its disk."""

    bytes: int
    files: int
    margin: int

    @property
    def counts(self) -> bool:
        """Whether workspaces have to be measured at all."""
        return self.bytes > 0

    def breach(self, fill: Fill | None, free: int) -> StopReason | None:
        """What is broken, as the reason to stop who writes; nothing while the workspace is not measured yet."""
        if free < self.margin:
            return StopReason.DISK_FULL
        full = fill and (fill.hidden or fill.bytes > self.bytes or fill.files > self.files)
        return StopReason.WORKSPACE_FULL if self.counts and full else None

    def notice(self, fill: Fill | None, free: int) -> str:
        """What a command is told that begins in a full workspace."""
        if fill is None or free < self.margin:
            return f"The disk of the server has less than {self.margin} bytes left. {CONSEQUENCE}"
        if fill.hidden:
            return f"The workspace hides folders that cannot be measured, so it counts as full. {CONSEQUENCE}"
        held = f"{fill.bytes} of {self.bytes} bytes, {fill.files} of {self.files} files"
        return f"The workspace is full: {held}. {CONSEQUENCE}"


NO_QUOTA = Quota(0, 0, 0)
