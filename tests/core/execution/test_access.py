"""Who may view and control an execution: one table of roles and relations."""

from dataclasses import replace

import pytest

from backend.core.execution.access import Owner, Relation, may_control, may_view, relation
from backend.core.identity import VISITOR_PERMISSIONS, Permission, Principal, Project, Role, User

ANN = User("01ANN", "ann", Role.OPERATOR, "agent", False, 0, 0)
PROJECT = Project("01PRO", "shop", "01ANN", frozenset({"01BOB"}), "agent", (), False, False, 0)
VISITOR = Principal("visitor:1", "10.0.0.1")


def account(id: str, name: str, permissions: frozenset[Permission]) -> Principal:
    return Principal(f"user:{name}", "10.0.0.1", permissions, replace(ANN, id=id, name=name))


NOTHING, READ, EXECUTE = frozenset[Permission](), frozenset({Permission.READ}), frozenset({Permission.EXECUTE})
ROLES = {
    "visitor": VISITOR_PERMISSIONS,
    "admin": Role.ADMIN.permissions,
    "operator": Role.OPERATOR.permissions,
    "viewer": Role.VIEWER.permissions,
    "execute only": EXECUTE,
    "nothing": NOTHING,
}
VIEW, CONTROL, BOTH, NONE = (True, False), (False, True), (True, True), (False, False)
TABLE = {
    Relation.OWN: [BOTH, BOTH, BOTH, VIEW, CONTROL, NONE],
    Relation.ANONYMOUS: [BOTH, BOTH, BOTH, VIEW, NONE, NONE],
    Relation.PROJECT: [BOTH, BOTH, BOTH, VIEW, NONE, NONE],
    Relation.FOREIGN: [NONE, BOTH, NONE, NONE, NONE, NONE],
    Relation.FORGOTTEN: [NONE, BOTH, NONE, NONE, NONE, NONE],
}
ROWS = [(kind, role, answer) for kind, answers in TABLE.items() for role, answer in zip(ROLES, answers, strict=True)]


@pytest.mark.parametrize(("kind", "role", "answer"), ROWS)
def test_the_table(kind: Relation, role: str, answer: tuple[bool, bool]) -> None:
    principal = Principal("who", "10.0.0.1", ROLES[role])
    assert (may_view(principal, kind), may_control(principal, kind)) == answer


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(Relation)


@pytest.mark.parametrize(
    ("principal", "owner", "project", "expected"),
    [
        (VISITOR, Owner("visitor:1", None, None), None, Relation.OWN),
        (VISITOR, Owner("visitor:2", None, None), None, Relation.ANONYMOUS),
        (VISITOR, Owner("user:ann", "01ANN", None), None, Relation.FOREIGN),
        (VISITOR, Owner("user:ann", "01ANN", "01PRO"), PROJECT, Relation.FOREIGN),
        (VISITOR, None, None, Relation.FORGOTTEN),
        (account("01ANN", "ann", READ), Owner("user:ann", "01ANN", None), None, Relation.OWN),
        # An account that was renamed keeps what it started; one that took an old name does not get it.
        (account("01ANN", "anna", READ), Owner("user:ann", "01ANN", None), None, Relation.OWN),
        (account("01BOB", "bob", READ), Owner("user:ann", "01ANN", "01PRO"), PROJECT, Relation.PROJECT),
        (account("01BOB", "bob", READ), Owner("user:ann", "01ANN", "01PRO"), None, Relation.FOREIGN),
        (account("01CID", "cid", READ), Owner("user:ann", "01ANN", "01PRO"), PROJECT, Relation.FOREIGN),
        (account("01CID", "cid", READ), Owner("visitor:1", None, None), None, Relation.ANONYMOUS),
    ],
)
def test_the_relation(principal: Principal, owner: Owner | None, project: Project | None, expected: Relation) -> None:
    assert relation(principal, owner, project) is expected
