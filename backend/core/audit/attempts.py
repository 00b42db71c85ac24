"""What is written of every attempt to run a command: a row of the history and events of the audit."""

from collections.abc import Mapping
from typing import Any

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision, Risk
from backend.core.execution.model import NOTHING_USED, Status, Usage
from backend.core.identity import Principal
from backend.core.recording.digest import RecordingDigest


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request with the verdict on it. Texts are masked already; `argvs` are the commands of the line, in order.

    `target` is the text of the name of the target whose policy judged, `schedule` the id of the schedule that asked.
    """

    id: str
    principal: Principal
    target: str
    project: str | None
    command: str
    argvs: tuple[tuple[str, ...], ...]
    working_dir: str
    decision: Decision
    policy: str  # the hash of the profile that judged
    dry_run: bool = False
    metadata_only: bool = False
    schedule: str | None = None

    @property
    def deletes(self) -> bool:
        """Whether one of its programs is rm, also by its path in a line of a shell."""
        return any(argv[0].rpartition("/")[2] == "rm" for argv in self.argvs)

    def columns(self, status: Status, created_ms: int, folder: str, owner: str | None) -> dict[str, Any]:
        """What its row gets at first, by the names of the columns and of the fields of `Record`.

        `folder` is the data folder that holds the recording.
        """
        who, decision = self.principal, self.decision
        return {
            "id": self.id,
            "principal": who.name,
            "user_id": who.user_id,
            "target": self.target,
            "project_id": self.project,
            "command": self.command,
            "working_dir": self.working_dir,
            "status": status,
            "risk": decision.risk,
            "rule": decision.rule,
            "deletes": self.deletes,
            "dry_run": self.dry_run,
            "metadata_only": self.metadata_only,
            "created_ms": created_ms,
            "folder": folder,
            "owner": owner,
            "schedule_id": self.schedule,
        }

    @property
    def fields(self) -> Mapping[str, Any]:
        """The details of its events."""
        return {
            "execution": self.id,
            "target": self.target,
            "project": self.project,
            "schedule": self.schedule,
            "token": self.principal.token,
            "command": self.command,
            "argv": [list(argv) for argv in self.argvs] or None,
            "working_dir": self.working_dir,
            "rule": self.decision.rule,
            "risk": str(self.decision.risk),
            "policy": self.policy,
            "dry_run": self.dry_run or None,
            "metadata_only": self.metadata_only or None,
        }


@dataclass(frozen=True, slots=True)
class Completion:
    """How an execution ended: the one source of its last message, its row and its last event.

    `signal` ended its last program; `stopped_by` is the principal who cancelled it; `truncated` when it wrote more than
    the limit; `recording` is the digest of what is stored of it, None where nothing is; `reason` says why one that
    waited was not run; `background` are the executions that it has started.
    """

    status: Status
    exit_code: int | None
    duration_ms: int
    signal: str | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    truncated: bool = False
    stopped_by: str = ""
    reason: str = ""
    usage: Usage = NOTHING_USED
    recording: RecordingDigest | None = None
    background: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, Any]:
        """What its row gets, by the names of the columns and of the fields of `Record`."""
        return {
            "status": self.status,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "duration_ms": self.duration_ms,
            **self.usage.figures,
            "protection": self.usage.protection,
        }


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the history. `created_ms` is in Unix milliseconds; no figures where nothing has ended or run.

    `folder` is the data folder that holds the recording; `owner` is the server process that runs it or ran it, None for
    one that waits or was refused; `schedule_id` is the schedule that started it.
    """

    id: str
    principal: str
    user_id: str | None
    target: str
    project_id: str | None
    command: str
    working_dir: str
    status: Status
    risk: Risk
    rule: str
    deletes: bool
    dry_run: bool
    metadata_only: bool
    created_ms: int
    folder: str = ""
    owner: str | None = None
    schedule_id: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    duration_ms: int | None = None
    protection: str = ""
    cpu_ms: int | None = None
    peak_memory_bytes: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None

    @property
    def success(self) -> bool:
        return self.status is Status.SUCCEEDED
