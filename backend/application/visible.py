"""Which executions exist for a caller, by what is stored of them."""

from backend.core.audit.attempts import Record
from backend.core.decisions import Decision
from backend.core.execution.access import Owner, Relation, may_view, relation
from backend.core.execution.refusals import unknown
from backend.core.identity import Principal
from backend.core.ports import ExecutionHistory, Projects


def owner_of(record: Record) -> Owner:
    """Who a stored execution belongs to."""
    return Owner(record.principal, record.user_id, record.project_id)


async def relation_to(who: Principal, owner: Owner | None, projects: Projects) -> Relation:
    """The relation of a caller to an execution; its project is looked up where that matters. Raises StorageError."""
    first = relation(who, owner, None)
    if first is Relation.FOREIGN and owner and owner.project_id and who.user:
        return relation(who, owner, await projects.get(owner.project_id))
    return first


async def find(who: Principal, id: str, history: ExecutionHistory, projects: Projects) -> Record | Decision:
    """A stored execution that exists for the caller. Raises StorageError."""
    record = await history.get(id)
    if record and may_view(who, await relation_to(who, owner_of(record), projects)):
        return record
    return unknown(id)
