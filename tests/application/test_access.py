"""Every use case obeys the one rule of who may view and who may control, wherever it is asked."""

from dataclasses import dataclass, replace

import pytest

from backend.core.audit.attempts import Record
from backend.core.decisions import Decision
from backend.core.execution.access import Relation, may_control, may_view
from backend.core.execution.model import Delivery, Signal, SignalName
from backend.core.execution.targets import OWN, TargetRef
from backend.core.identity import VISITOR_PERMISSIONS, Permission, Principal, Role, User
from tests.application.servers import Servers, part
from tests.bus.servers import Viewer
from tests.recipes.house import House

ROLES = {
    "visitor": VISITOR_PERMISSIONS,
    "admin": Role.ADMIN.permissions,
    "operator": Role.OPERATOR.permissions,
    "viewer": Role.VIEWER.permissions,
    "execute only": frozenset({Permission.EXECUTE}),
    "nothing": frozenset[Permission](),
}
INT = Signal(SignalName.INT)


@dataclass(frozen=True, slots=True)
class Case:
    """An execution, who asks for it, and how they stand to each other."""

    execution: str
    who: Principal
    relation: Relation
    running: bool
    recorded: bool = True

    @property
    def visible(self) -> bool:
        return may_view(self.who, self.relation)


def principal(user: User | None, name: str = "visitor:9") -> Principal:
    """Someone who may run commands."""
    return Principal(f"user:{user.name}" if user else name, "10.0.0.9", Role.OPERATOR.permissions, user)


async def user(servers: Servers, name: str) -> User:
    found = await servers.common.projects.identities.add_user(name, Role.OPERATOR)
    assert found
    return found


async def make(servers: Servers, relation: Relation, role: str, *, running: bool) -> Case:
    """An execution to which a caller with a role stands in a relation; a visitor is in no project."""
    owner = await user(servers, "olga")
    other = None if role == "visitor" else await user(servers, "otto")
    caller, target = principal(other), OWN
    if relation is Relation.OWN:
        starter = caller
    elif relation is Relation.ANONYMOUS:
        starter = principal(None, "visitor:1")
    else:
        starter = principal(owner)
    if relation is Relation.PROJECT:
        project = await servers.common.projects.add("shop", owner.id)
        await servers.common.projects.change(project.id, members=frozenset({other.id} if other else ()))
        target = TargetRef("project", project.id)
    id = await servers.start("cat 9" if running else "echo 9", starter, target=target)
    if not running:
        await servers.ended(id)
    if relation is Relation.FORGOTTEN:
        del servers.common.executions.rows[id]
    known = Relation.FOREIGN if relation is Relation.PROJECT and other is None else relation
    return Case(id, replace(caller, permissions=ROLES[role]), known, running, relation is not Relation.FORGOTTEN)


async def check_viewing(house: House, case: Case) -> None:
    service, visible = house.service, case.visible
    record = await service.view(case.who, case.execution)
    output = await service.read_output(case.who, case.execution, part())
    for found in (record, output):
        assert isinstance(found, Decision) is not (visible and case.recorded), found
        assert not isinstance(found, Decision) or found.rule == "execution.unknown"
    if isinstance(record, Record):
        assert record.id == case.execution
    assert await service.still_allowed(case.who, case.execution) is visible


async def check_following(house: House, case: Case, *, stored_here: bool) -> None:
    """Without a record, a recording is found only in the folder of the server that is asked."""
    viewer, readable = Viewer(), case.visible and (case.recorded or stored_here)
    recording = await house.service.recording(case.who, case.execution)
    assert isinstance(recording, Decision) is not readable
    if isinstance(recording, Decision):
        assert recording.rule == "execution.unknown"
    else:
        assert await recording.copy(viewer.send) is None
    if not case.running:
        followed = await house.service.follow(case.who, case.execution, 0, viewer.send)
        assert (followed is None) is readable
    assert (b"started" in viewer.received) is readable


async def check_controlling(house: House, case: Case) -> None:
    answer = await house.service.instruct(case.who, case.execution, INT)
    if may_control(case.who, case.relation) and case.recorded:
        assert answer is (Delivery.DELIVERED if case.running else Delivery.NOT_RUNNING)
    else:
        assert isinstance(answer, Decision)
        assert answer.rule == ("role.forbidden" if case.visible and case.recorded else "execution.unknown")


# Only what has ended is forgotten.
STATES = [
    (each, state) for each in Relation for state in ("running", "ended") if (each, state) != ("forgotten", "running")
]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("relation", "state"), STATES)
async def test_the_rule_is_obeyed_everywhere(servers: Servers, relation: Relation, state: str, role: str) -> None:
    case = await make(servers, relation, role, running=state == "running")
    for house in (servers.here, servers.there):
        await check_viewing(house, case)
        await check_following(house, case, stored_here=house is servers.here)
        await check_controlling(house, case)
