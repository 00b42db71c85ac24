"""The workspaces of this machine, and the executors that run lines in them."""

from collections.abc import Callable, Mapping

from backend.core.dataclasses import dataclass
from backend.core.execution.background import BackgroundExecutions
from backend.core.execution.executor import Executor
from backend.core.execution.pipeline import PipelineRunner
from backend.core.execution.sequence import Sequence, StepLog
from backend.core.policy.admit import Scope
from backend.core.policy.egress import Egress
from backend.core.policy.files import FileView
from backend.core.policy.profile import Profile
from backend.executors.local.builtins import CLEAR, Builtins, help_text
from backend.executors.local.homes import Homes
from backend.executors.local.workspace import FolderView
from backend.executors.local.workspace_users import PASS, PRIVATE, WorkspaceUsers

BUILTINS: Mapping[str, Callable[[Profile], str]] = {"help": help_text, "clear": lambda _: CLEAR}


@dataclass(frozen=True, slots=True)
class LocalPlaces:
    """Makes workspaces in the folder of their users, and executors for them."""

    users: WorkspaceUsers
    pipelines: PipelineRunner
    log: StepLog
    mask: Callable[[str], str]
    clock: Callable[[], float]
    homes: Homes | None = None
    background: BackgroundExecutions | None = None

    def workspace(self, name: str) -> FolderView:
        """The workspace with this name, made where it is missing. Raises OSError."""
        folder = self.users.folder / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.parent != self.users.folder:
            folder.parent.chmod(PASS)  # whatever the umask, and whatever a command of our own user did
        folder.mkdir(exist_ok=True, mode=PRIVATE)
        self.users.settle([folder])
        return FolderView(folder, self.homes.of_workspace(name) if self.homes else None)

    def of_visitor(self, files: FileView, visitor: str) -> FileView:
        """The workspace of visitors, with a home for one of them."""
        return (
            files.with_home(self.homes.of_visitor(visitor)) if self.homes and isinstance(files, FolderView) else files
        )

    def leave(self, visitor: str) -> None:
        """A visitor has gone, and with the last command its home goes too."""
        if self.homes:
            self.homes.leave(self.homes.of_visitor(visitor))

    def executor(self, profile: Profile, files: FileView, *, network: bool | Egress) -> Executor:
        """What runs lines there: builtins by itself, pipelines in the cage."""
        scope = Scope(profile, files, bool(network))
        runner = Builtins(BUILTINS, profile, otherwise=self.pipelines)
        egress = network if isinstance(network, Egress) else None
        return Sequence(scope, runner, self.log, self.mask, self.clock, egress, self.background)
