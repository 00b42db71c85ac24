"""The workspaces of this machine, and the executors that run lines in them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.core.execution.executor import Executor
from backend.core.execution.sequence import PipelineRunner, Sequence, StepLog
from backend.core.policy.admit import Scope
from backend.core.policy.files import FileView
from backend.core.policy.profile import Profile
from backend.executors.local.builtins import CLEAR, Builtins, help_text
from backend.executors.local.run_as import give_folder
from backend.executors.local.workspace import FolderView

BUILTINS: Mapping[str, Callable[[Profile], str]] = {"help": help_text, "clear": lambda _: CLEAR}


@dataclass(frozen=True, slots=True)
class LocalPlaces:
    """Makes workspaces in `folder`, which belong to `owner` (uid, gid), and executors for them."""

    folder: Path
    owner: tuple[int, int] | None
    pipelines: PipelineRunner
    log: StepLog
    mask: Callable[[str], str]
    clock: Callable[[], float]

    def workspace(self, name: str) -> FolderView:
        """The workspace with this name, made where it is missing. Raises OSError."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        give_folder(folder, self.owner)
        return FolderView(folder)

    def executor(self, profile: Profile, files: FileView, *, network: bool) -> Executor:
        """What runs lines there: builtins by itself, pipelines in the cage."""
        scope = Scope(profile, files, network)
        runner = Builtins(BUILTINS, profile, otherwise=self.pipelines)
        return Sequence(scope, runner, self.log, self.mask, self.clock)
