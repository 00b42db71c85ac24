"""The rows of executions: how records become rows and rows become records. Statements are built once."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sqlalchemy import bindparam, func, insert, text, update

from backend.core.audit.attempts import Completion, Record
from backend.core.decisions import Risk
from backend.core.execution.model import Status
from backend.storage.tables import executions

NAMES = tuple(each.name for each in fields(Record))
UNFINISHED = (str(Status.QUEUED), str(Status.RUNNING))
COLUMNS = [executions.c[name] for name in NAMES]
ANY_LEASE = 2**63 - 1

ENDED = tuple(Completion(Status.LOST, None, 0).columns)  # the columns that the end of an execution sets
NEW = tuple(f"new_{name}" for name in ENDED)

INSERT_EXECUTION = insert(executions)
# Changes nothing if another server was first: the first recorded end remains.
CLOSE_EXECUTION = (
    update(executions)
    .where(executions.c.id == bindparam("key"), executions.c.status == bindparam("old_status"))
    .where(func.coalesce(executions.c.lease_until_ms, 0) <= bindparam("old_lease"))
    .values(
        **{name: bindparam(new) for name, new in zip(ENDED, NEW, strict=True)},
        job=None,  # its command line is not masked
    )
)
# Costs one look at an empty table while there are no notifications.
INSERT_ENDED = text(
    "insert into ended_executions (execution) select cast(:execution as varchar(26)) "
    "where exists (select 1 from notifications)"
)


def new_row(columns: dict[str, Any], *, lease_until_ms: int | None = None, job: str | None = None) -> Mapping[str, Any]:
    """The row of a new execution, from `Attempt.columns`; what is not in it is NULL."""
    columns["command"] = storable(columns["command"])
    columns["working_dir"] = storable(columns["working_dir"])
    columns["status"], columns["risk"] = str(columns["status"]), str(columns["risk"])
    columns["lease_until_ms"], columns["job"], columns["protection"] = lease_until_ms, job, ""
    return columns


def closing(execution: str, old: Status, completion: Completion, lease_ms: int = ANY_LEASE) -> Mapping[str, Any]:
    """The values of CLOSE_EXECUTION for an execution that has the status `old` and a lease until `lease_ms` at most."""
    return {
        "key": execution,
        "old_status": str(old),
        "old_lease": lease_ms,
        **dict(zip(NEW, completion.columns.values(), strict=True)),
        "new_status": str(completion.status),
    }


def record_of(row: Any) -> Record:
    """The record of a row that has COLUMNS, and maybe others."""
    values = {name: getattr(row, name) for name in NAMES}
    return Record(**{**values, "status": Status(values["status"]), "risk": Risk(values["risk"])})


def storable(text: str) -> str:
    """The text without what PostgreSQL refuses: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
