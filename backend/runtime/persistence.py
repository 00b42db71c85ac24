"""The stores of a server, opened in the data folder and in the database of the settings."""

from dataclasses import dataclass, field
from pathlib import Path

from backend.accounts.credentials import Passwords, Signer, new_signing_key, verify_signature
from backend.core.errors import GatepostError, reason_of
from backend.runtime.clock import new_id, now_ms, utc_now
from backend.runtime.settings import Settings, SettingsError
from backend.storage.checkpoint import AnchorFile
from backend.storage.database import Database, database_url
from backend.storage.history import HistoryStore
from backend.storage.idempotency import IdempotencyStore
from backend.storage.identities import Identities
from backend.storage.keys import AuditKeys, load_or_make
from backend.storage.ledger import LedgerStore, Stamp
from backend.storage.projects import Projects
from backend.storage.recordings import RecordingFolder


@dataclass(slots=True)
class Stores:
    """The stores of a server."""

    database: Database
    identities: Identities
    projects: Projects
    history: HistoryStore
    keys: IdempotencyStore
    ledger: LedgerStore
    recordings: RecordingFolder
    owner: str  # the id of this server process
    login_link: str = ""  # the ticket of the first administrator, from the start that made it
    passwords: Passwords = field(default_factory=Passwords)


def open_stores(settings: Settings) -> Stores:
    """Open the stores. Raises SettingsError for a folder or key that cannot be used."""
    data = settings.data_dir.absolute()
    try:
        data.mkdir(parents=True, exist_ok=True)
        database = Database(database_url(settings.database, data))
        recordings = RecordingFolder(data / "recordings")
        folder = load_or_make(data / "folder.id", lambda: new_id().encode()).decode()
        ledger = open_ledger(data, database, folder)
    except (OSError, GatepostError) as error:
        raise SettingsError(f"GATEPOST_DATA_DIR: {settings.data_dir}: {reason_of(error)}") from error
    return Stores(
        database=database,
        identities=Identities(database, now_ms, new_id),
        projects=Projects(database, now_ms, new_id),
        history=HistoryStore(database),
        keys=IdempotencyStore(database, now_ms),
        ledger=ledger,
        recordings=recordings,
        owner=new_id(),
    )


def open_ledger(data: Path, database: Database, folder: str = "") -> LedgerStore:
    """The audit, signed with the key of a data folder, in which `folder` holds recordings. Raises KeyFileError."""
    keys = AuditKeys.open(data / "audit.key", Signer, new_signing_key)
    return LedgerStore(
        database, Stamp(now_ms, utc_now, new_id, keys, verify_signature), folder, AnchorFile(data / "audit.anchor")
    )
