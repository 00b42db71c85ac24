"""The executor of this machine, and where its workspaces are."""

import hashlib
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from backend.core.execution.sequence import StepLog
from backend.core.quota import Quota
from backend.core.recording.lines import LineAssembler
from backend.core.recording.redaction import Masks
from backend.core.recording.terminal_filter import TerminalFilter
from backend.executors.local.confinement import RUNNABLE
from backend.executors.local.pipelines import LocalPipelines, OutsideProgram
from backend.executors.local.places import LocalPlaces
from backend.executors.local.run_as import closed_parent, give_folder
from backend.executors.local.workspace import FolderView, prepare_workspace
from backend.executors.local.workspace_usage import UsageMonitors
from backend.runtime.preflight import Guard
from backend.runtime.settings import Settings, SettingsError, data_exposed

SHARED_FOLDER = Path("/var/lib/gatepost")


def local_places(settings: Settings, guard: Guard, masks: Masks, log: StepLog) -> LocalPlaces:
    """The workspaces of accounts and projects, and the executors that run commands in them."""
    pipelines = LocalPipelines(
        guard.launcher,
        {"pyguard": _pyguard(settings)},
        readable=(*settings.readable, *_pyguard_folders(settings)),
        lines=_lines(settings, masks),
        owner=guard.owner,
        monitors=UsageMonitors(Quota(settings.workspace_limit, settings.workspace_files, settings.disk_margin)),
    )
    folder = _workspaces(settings, guard.owner)
    return LocalPlaces(folder, guard.owner, pipelines, log, masks.text, time.monotonic)


def visitors_files(settings: Settings, guard: Guard) -> FolderView:
    """The workspace of visitors. Raises SettingsError if it cannot be used."""
    _check_exposed(settings)
    base = settings.workspace_dir if settings.workspace else _workspaces(settings, guard.owner) / "workspace"
    try:
        prepare_workspace(base)
        give_folder(base, guard.owner)
    except OSError as error:
        raise SettingsError(f"GATEPOST_WORKSPACE: {base}: {error.strerror}") from error
    if closed := closed_parent(base, guard.owner):
        raise SettingsError(f"GATEPOST_WORKSPACE: {settings.run_as} may not pass through {closed}; chmod o+x {closed}")
    return FolderView(base)


def _lines(settings: Settings, masks: Masks) -> Callable[[], LineAssembler]:
    """Splits a stream of output into lines: terminal controls are removed first, so that they hide no secret."""
    if settings.raw_output:
        return lambda: LineAssembler(masks.stream())
    return lambda: LineAssembler(TerminalFilter(), masks.stream())


def _pyguard(settings: Settings) -> OutsideProgram:
    """pyguard's command line and its keys, which no other program gets."""
    keys = {"ANTHROPIC_API_KEY": settings.anthropic_api_key, "GROQ_API_KEY": settings.groq_api_key}
    return OutsideProgram(
        tuple(shlex.split(settings.pyguard_command)),
        {name: key.get_secret_value() for name, key in keys.items() if key is not None},
    )


def _pyguard_folders(settings: Settings) -> list[str]:
    """The folders of pyguard's own files, which it must read."""
    words = shlex.split(settings.pyguard_command)
    return [os.path.dirname(word) for word in words if os.path.isabs(word) and os.path.isfile(word)]


def _check_exposed(settings: Settings) -> None:
    """Raises SettingsError if the data folder is in a folder that all commands, or pyguard, may read."""
    folders = [
        *(("GATEPOST_DATA_DIR", folder) for folder in RUNNABLE),
        *(("PYGUARD_COMMAND", folder) for folder in _pyguard_folders(settings)),
    ]
    if exposed := data_exposed(settings.data_dir, folders):
        raise SettingsError(exposed)


def _workspaces(settings: Settings, owner: tuple[int, int] | None) -> Path:
    """The folder of workspaces: the data folder, unless the user that runs commands cannot enter it (root's home)."""
    data = settings.data_dir.absolute()
    closed = closed_parent(data / "workspace", owner)
    if closed is None:
        return data
    elsewhere = SHARED_FOLDER / hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    elsewhere.mkdir(parents=True, exist_ok=True, mode=0o755)
    reason = f"{settings.run_as} may not pass through {closed}"
    structlog.get_logger().warning("workspaces are outside the data folder", folder=str(elsewhere), reason=reason)
    return elsewhere
