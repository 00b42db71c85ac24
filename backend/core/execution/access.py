"""Who may view and control an execution: one rule for every front."""

from enum import StrEnum

from backend.core.dataclasses import dataclass
from backend.core.identity import Permission, Principal, Project


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of an execution: the principal's name, its account (None for a visitor), and the project it ran in."""

    principal: str
    user_id: str | None
    project_id: str | None


class Relation(StrEnum):
    """The relation of a principal to an execution.

    `anonymous`: a visitor started it, so it is open to every client that knows its id. `forgotten`: the history
    no longer contains it, so its owner is unknown.
    """

    OWN = "own"
    ANONYMOUS = "anonymous"
    PROJECT = "project"
    FOREIGN = "foreign"
    FORGOTTEN = "forgotten"


def relation(principal: Principal, owner: Owner | None, project: Project | None) -> Relation:
    """The relation of `principal` to an execution of `owner` that ran in `project`."""
    if owner is None:
        return Relation.FORGOTTEN
    if owner.principal == principal.name or (principal.user and principal.user.id == owner.user_id):
        return Relation.OWN
    if owner.user_id is None:
        return Relation.ANONYMOUS
    if project is not None and project.is_open_to(principal):
        return Relation.PROJECT
    return Relation.FOREIGN


def may_view(principal: Principal, relation: Relation) -> bool:
    """Whether a principal may view an execution. For every other principal it does not exist."""
    if not principal.may(Permission.READ):
        return False
    return principal.may(Permission.ADMIN) or relation not in {Relation.FOREIGN, Relation.FORGOTTEN}


def may_control(principal: Principal, relation: Relation) -> bool:
    """Whether a principal may cancel, signal and feed an execution. With only the scope `execute`: its own."""
    if not principal.may(Permission.EXECUTE):
        return False
    return relation is Relation.OWN or may_view(principal, relation)
