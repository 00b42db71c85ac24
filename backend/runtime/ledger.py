"""What a server and the agent of a host store alike: executions with their recordings, and the audit.

Apart from what only a server stores, because the libraries of that take the memory of an agent.
"""

import os
from errno import ENOTDIR
from pathlib import Path

from backend.accounts.signatures import Signer, new_signing_key, verify_signature
from backend.core.dataclasses import dataclass
from backend.core.errors import GatepostError, KeyFileError, reason_of
from backend.core.execution.ownership import Contact, Holdings
from backend.core.ids import is_id
from backend.runtime.clock import new_id, now_ms, since_boot, utc_now
from backend.runtime.recovery import Recovery
from backend.runtime.settings import Settings, SettingsError
from backend.runtime.trusted_clock import CLOCK_FILE, TrustedClock
from backend.storage.audit_chain import Chain
from backend.storage.audit_head import LedgerContext
from backend.storage.audit_log import SqlAuditLog
from backend.storage.checkpoint import AnchorFile
from backend.storage.commit_queue import CommitQueue
from backend.storage.database import Database, database_url
from backend.storage.execution_history import SqlExecutionHistory
from backend.storage.execution_log import SqlExecutionLog
from backend.storage.idempotency_keys import SqlIdempotencyKeys
from backend.storage.keys import AuditKeys, load_or_make
from backend.storage.modes import restore
from backend.storage.owner_locks import OwnerLocks
from backend.storage.ownership import SqlOwnership
from backend.storage.projects import SqlProjects
from backend.storage.recordings import FileRecordings


@dataclass(slots=True)
class Ledger:
    """What is stored of executions. `owner` is the id of this process, `folder` that of its data folder."""

    owner: str
    folder: str
    database: Database
    queue: CommitQueue
    audit: SqlAuditLog
    executions: SqlExecutionLog
    ownership: SqlOwnership
    history: SqlExecutionHistory
    projects: SqlProjects
    keys: SqlIdempotencyKeys
    recordings: FileRecordings
    locks: OwnerLocks
    recovery: Recovery
    clock: TrustedClock

    async def write_rest(self) -> None:
        """Write what is still to be written, and wait for it. Raises nothing."""
        await self.executions.retry_unwritten()
        self.executions.close_floods()
        await self.queue.close()

    async def close(self) -> None:
        """Release the database and the lock."""
        await self.database.close()
        self.locks.release()


def open_ledger(settings: Settings) -> Ledger:
    """Open what is stored. Raises SettingsError for a folder or key that cannot be used."""
    data = settings.data_dir.absolute()
    try:
        _make_folder(data)
        restore(data)
        restore(*data.iterdir())  # a command of the same user may have closed them
        database = Database(database_url(settings.database, data))
        recordings = FileRecordings(data / "recordings")
        folder = _folder_id(data / "folder.id")
        queue = open_queue(data, database)
    except OSError as error:
        hint = "The service needs a folder that it can write to."
        raise SettingsError(f"GATEPOST_DATA_DIR: {settings.data_dir}: {reason_of(error)}. {hint}") from error
    except GatepostError as error:
        raise SettingsError(f"GATEPOST_DATA_DIR: {settings.data_dir}: {error}") from error
    return _ledger(data, folder, queue, recordings)


def _make_folder(data: Path) -> None:
    if data.exists() and not data.is_dir():
        raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR))
    data.mkdir(parents=True, exist_ok=True)


def _folder_id(path: Path) -> str:
    """The id of the data folder, which is created if it is missing. Raises KeyFileError."""
    found = load_or_make(path, lambda: new_id().encode()).decode(errors="replace")
    if not is_id(found):
        raise KeyFileError(f"The file {path} does not contain an id; delete it to get a new one.")
    return found


def _ledger(data: Path, folder: str, queue: CommitQueue, recordings: FileRecordings) -> Ledger:
    database, owner, holdings = queue.database, new_id(), Holdings()
    ownership = SqlOwnership(queue, owner, folder, holdings)
    history = SqlExecutionHistory(database)
    locks = OwnerLocks(data / "owners", owner)
    return Ledger(
        owner=owner,
        folder=folder,
        database=database,
        queue=queue,
        audit=SqlAuditLog(queue),
        executions=SqlExecutionLog(queue, owner, folder, holdings),
        ownership=ownership,
        history=history,
        projects=SqlProjects(database, now_ms, new_id),
        keys=SqlIdempotencyKeys(database, now_ms),
        recordings=recordings,
        locks=locks,
        recovery=Recovery(ownership, recordings, folder, locks, Contact(), now_ms),
        clock=TrustedClock(data / CLOCK_FILE, history.newest_ms, now_ms, since_boot),
    )


def open_queue(data: Path, database: Database) -> CommitQueue:
    """The writer of the audit, which signs with the key of a data folder. Raises KeyFileError."""
    keys = AuditKeys.open(data / "audit.key", Signer, new_signing_key)
    context = LedgerContext(now_ms, utc_now, new_id, keys, verify_signature)
    return CommitQueue(database, context, AnchorFile(data / "audit.anchor", Chain(database).lost))
