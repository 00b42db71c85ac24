"""Everything that a server stores, opened in the data folder and in the database of the settings."""

from dataclasses import field, fields

from backend.accounts.passwords import Passwords
from backend.core.dataclasses import dataclass
from backend.runtime.clock import new_id, now_ms
from backend.runtime.ledger import Ledger, open_ledger
from backend.runtime.settings import Settings
from backend.storage.execution_figures import HourlyFigures
from backend.storage.hooks import SqlHooks
from backend.storage.identities import SqlIdentities
from backend.storage.notifications import SqlNotifications
from backend.storage.runners import SqlRunners
from backend.storage.schedules import SqlSchedules


@dataclass(slots=True)
class Stores(Ledger):
    """What a server stores: in addition accounts, and what accounts have."""

    figures: HourlyFigures
    identities: SqlIdentities
    runners: SqlRunners
    schedules: SqlSchedules
    notifications: SqlNotifications
    hooks: SqlHooks
    passwords: Passwords = field(default_factory=Passwords)

    async def close(self) -> None:
        """Release the database and everything else that is open."""
        await Ledger.close(self)
        self.passwords.close()


def open_stores(settings: Settings) -> Stores:
    """Open what is stored. Raises SettingsError for a folder or key that cannot be used."""
    ledger = open_ledger(settings)
    database = ledger.database
    return Stores(
        **{each.name: getattr(ledger, each.name) for each in fields(Ledger)},
        figures=HourlyFigures(database),
        identities=SqlIdentities(database, now_ms, new_id),
        runners=SqlRunners(database, now_ms, new_id),
        schedules=SqlSchedules(database),
        notifications=SqlNotifications(database),
        hooks=SqlHooks(database),
    )
