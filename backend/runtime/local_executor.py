"""The executor of this machine, and where its workspaces are."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from backend.core.execution.background import BackgroundExecutions
from backend.core.quota import Quota
from backend.core.recording.lines import LineAssembler
from backend.core.recording.redaction import Masks
from backend.core.recording.terminal_filter import TerminalFilter
from backend.executors.local.confinement import RUNNABLE
from backend.executors.local.homes import Homes
from backend.executors.local.outside import OutsideProgram
from backend.executors.local.pipelines import LocalPipelines
from backend.executors.local.places import LocalPlaces
from backend.executors.local.process_spec import Owner
from backend.executors.local.run_as import closed_parent, give_folder
from backend.executors.local.workspace import FolderView, prepare_workspace
from backend.executors.local.workspace_usage import UsageMonitors
from backend.executors.local.workspace_users import WorkspaceUsers, are_mapped
from backend.runtime.egress import command_environment
from backend.runtime.ledger import Ledger
from backend.runtime.preflight import Guard
from backend.runtime.programs import OutsidePrograms
from backend.runtime.settings import Settings, SettingsError, data_exposed, uid_range

KINDS = ("accounts", "projects")  # folders of workspaces
SHARED_FOLDER = Path("/var/lib/gatepost")


def local_places(
    settings: Settings,
    guard: Guard,
    masks: Masks,
    stores: Ledger,
    programs: OutsidePrograms,
    background: BackgroundExecutions,
) -> LocalPlaces:
    """The workspaces of accounts and projects, and the executors that run commands in them.

    Homes that dead servers left behind are removed, and workspaces of earlier versions get a user of their own.
    """
    folder = _workspaces(settings, guard.owner)
    users = _users(settings, folder, guard.owner)
    users.settle_all()
    homes = Homes(Path(os.path.realpath(folder)) / "homes", stores.owner, stores.locks.alive, settings.command_home)
    homes.sweep()
    pipelines = LocalPipelines(
        guard.launcher,
        _outside(programs, homes),
        readable=(*settings.readable, *([str(settings.ca_bundle)] if settings.ca_bundle else [])),
        lines=output_lines(settings, masks),
        owner=guard.owner,
        monitors=UsageMonitors(Quota(settings.workspace_limit, settings.workspace_files, settings.disk_margin)),
        rooms=guard.rooms,
        memory=settings.memory_limit,
        homes=homes,
        environment=command_environment(settings),
    )
    return LocalPlaces(users, pipelines, stores.executions, masks.text, time.monotonic, homes, background)


def visitors_files(settings: Settings, guard: Guard) -> FolderView:
    """The workspace of visitors. Raises SettingsError if it cannot be used."""
    _check_exposed(settings)
    base = settings.workspace_dir if settings.workspace else _workspaces(settings, guard.owner) / "workspace"
    try:
        prepare_workspace(base)
        if settings.workspace:
            give_folder(base, guard.owner)  # what is in it is the operator's
        else:
            WorkspaceUsers(base.parent, KINDS, guard.owner).settle([base])
    except OSError as error:
        raise SettingsError(f"GATEPOST_WORKSPACE: {base}: {error.strerror}") from error
    if closed := closed_parent(base, guard.owner):
        raise SettingsError(f"GATEPOST_WORKSPACE: {settings.run_as} may not pass through {closed}; chmod o+x {closed}")
    return FolderView(base)


def _users(settings: Settings, folder: Path, owner: Owner | None) -> WorkspaceUsers:
    """Who the workspaces of accounts and projects belong to: each a user of its own, where that is possible."""
    uids = uid_range(settings.workspace_uids) if owner else range(0)
    if owner and uids and (reason := _unusable(uids, folder, owner)):
        structlog.get_logger().warning("all workspaces belong to one user", reason=reason)
        uids = range(0)
    return WorkspaceUsers(folder, KINDS, owner, uids)


def _unusable(uids: range, folder: Path, owner: Owner) -> str:
    """Why workspaces cannot have users of their own; empty if they can."""
    if not are_mapped(uids):
        return "not all users of GATEPOST_WORKSPACE_UIDS exist in the user namespace of the service"
    if closed := closed_parent(folder / KINDS[0], (uids[0], owner[1])):
        return f"only {owner[0]} may pass through {closed}; chmod o+x {closed}"
    return ""


def output_lines(settings: Settings, masks: Masks) -> Callable[[], LineAssembler]:
    """Splits a stream of output into lines: terminal controls are removed first, so that they hide no secret."""
    if settings.raw_output:
        return lambda: LineAssembler(masks.stream())
    return lambda: LineAssembler(TerminalFilter(), masks.stream())


def _outside(programs: OutsidePrograms, homes: Homes) -> dict[str, OutsideProgram]:
    """How the executor starts the outside programs."""
    return {
        name: OutsideProgram(
            command=program.command,
            environment=programs.environment(name),
            network=program.ports,
            readable=program.folders,
            homes=homes if program.home == "private" else None,
        )
        for name, program in programs.programs.items()
    }


def _check_exposed(settings: Settings) -> None:
    """Raises SettingsError if the data folder is in a folder that all commands may read."""
    if exposed := data_exposed(settings.data_dir, [("GATEPOST_DATA_DIR", folder) for folder in RUNNABLE]):
        raise SettingsError(exposed)


def _workspaces(settings: Settings, owner: Owner | None) -> Path:
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
