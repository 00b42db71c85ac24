"""The rows of executions in memory, shared by all servers of a process, and what is read of them."""

from collections.abc import Callable, Iterator, Sequence

from backend.core.audit.anomalies import is_counted
from backend.core.audit.attempts import Completion, Record
from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Risk
from backend.core.errors import StorageError
from backend.core.execution.model import Status
from backend.core.ids import first_id
from backend.core.ports import Filter, Stats
from backend.storage.execution_history import MOST
from backend.storage.execution_rows import UNFINISHED


@dataclass(slots=True)
class Row:
    """A record with what clients do not see of it."""

    record: Record
    lease_until_ms: int | None = None
    job: str | None = None

    @property
    def status(self) -> Status:
        return self.record.status

    def end(self, completion: Completion) -> None:
        """Record the end of the execution."""
        self.job = None
        self.record = replace(self.record, **completion.columns)


class MemoryExecutions:
    """The rows by their ids, and the history that is read of them.

    While there is an `outage`, every server that reads or writes gets it, as from an unavailable database.
    """

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self.outage: StorageError | None = None

    def check(self) -> None:
        """Raises StorageError during an outage."""
        if self.outage:
            raise self.outage

    @property
    def rows(self) -> dict[str, Row]:
        """Raises StorageError during an outage."""
        self.check()
        return self._rows

    def add(self, row: Row) -> None:
        """Raises StorageError for an id that exists."""
        if row.record.id in self.rows:
            raise StorageError(f"The execution {row.record.id} exists already.")
        self.rows[row.record.id] = row

    def with_status(self, status: Status) -> list[Row]:
        """The rows that have a status, the oldest first."""
        return [row for _, row in sorted(self.rows.items()) if row.status is status]

    async def get(self, execution: str) -> Record | None:
        """One record."""
        row = self.rows.get(execution)
        return row.record if row else None

    async def page(self, wanted: Filter) -> Sequence[Record]:
        """Records, newest first."""
        return list(self._newest(lambda record: _matches(record, wanted)))[: wanted.limit]

    async def stats(self, user_id: str, since_ms: int) -> Stats:
        """Figures over a user's commands since a time."""
        records = list(self._since(user_id, since_ms))
        durations = [record.duration_ms for record in records if record.duration_ms is not None]
        return Stats(
            total=len(records),
            successful=sum(record.success for record in records),
            failed=sum(not record.success and record.status not in UNFINISHED for record in records),
            high_risk=sum(record.risk in {Risk.HIGH, Risk.BLOCKED} for record in records),
            average_duration_ms=sum(durations) / len(durations) if durations else 0.0,
        )

    async def since(self, user_id: str, since_ms: int) -> Sequence[Record]:
        """A user's records that count since a time, newest first, at most MOST."""
        return list(self._since(user_id, since_ms))[:MOST]

    def _since(self, user_id: str, since_ms: int) -> Iterator[Record]:
        first = first_id(since_ms)
        return self._newest(
            lambda record: (
                record.user_id == user_id and record.id >= first and is_counted(record.rule, dry_run=record.dry_run)
            )
        )

    def _newest(self, wanted: Callable[[Record], bool]) -> Iterator[Record]:
        return (row.record for _, row in sorted(self.rows.items(), reverse=True) if wanted(row.record))


def _matches(record: Record, wanted: Filter) -> bool:
    return (
        wanted.user_id in (None, record.user_id)
        and wanted.target in (None, record.target)
        and wanted.schedule in (None, record.schedule_id)
        and wanted.status in (None, record.status)
        and (wanted.before is None or record.id < wanted.before)
    )
