"""Who may view and control an execution: one rule for every front."""

from dataclasses import dataclass
from enum import StrEnum

from backend.core.identity import Permission, Principal, Project


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose execution it is: a principal by its name, its account (None for a visitor), and the project it ran in."""

    principal: str
    user_id: str | None
    project_id: str | None


class Relation(StrEnum):
    """How a principal stands to an execution.

    `anonymous`: a visitor started it, so it is open to every client that knows its id. `forgotten`: the history has
    it no more, so nothing says whose it was.
    """

    OWN = "own"
    ANONYMOUS = "anonymous"
    PROJECT = "project"
    FOREIGN = "foreign"
    FORGOTTEN = "forgotten"


def relation(principal: Principal, owner: Owner | None, project: Project | None) -> Relation:
    """How `principal` stands to the execution of `owner`, which ran in `project`."""
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
    """Whether the execution exists for a principal."""
    if not principal.may(Permission.READ):
        return False
    return principal.may(Permission.ADMIN) or relation not in {Relation.FOREIGN, Relation.FORGOTTEN}


def may_control(principal: Principal, relation: Relation) -> bool:
    """Whether it may cancel, signal and feed it. A token that may only execute controls what it started."""
    if not principal.may(Permission.EXECUTE):
        return False
    return relation is Relation.OWN or may_view(principal, relation)
