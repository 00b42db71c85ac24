"""How many statements a list of projects costs."""

from collections.abc import Callable

from sqlalchemy import event

from backend.core.identity import Role
from backend.storage.database import Database
from backend.storage.identities import SqlIdentities
from backend.storage.projects import SqlProjects
from backend.transports.projects_api import ProjectService
from tests.storage.conftest import Clock
from tests.storage.contract.test_identities import added


async def test_a_list_of_many_asks_for_all_names_at_once(
    database: Database, clock: Clock, new_id: Callable[[], str]
) -> None:
    identities, projects = SqlIdentities(database, clock, new_id), SqlProjects(database, clock, new_id)
    roles = {"ann": Role.OPERATOR, "bob": Role.VIEWER, "root": Role.ADMIN}
    ann, bob, root = [await added(identities, name, role) for name, role in roles.items()]
    for number in range(20):
        made = await projects.add(f"p{number}", ann.id)
        await projects.change(made.id, members=frozenset({bob.id, root.id}))
    service = ProjectService(None, projects, identities, None, "")  # type: ignore[arg-type]
    found, asked = await projects.visible_to(ann), []
    event.listen(database.engine.sync_engine, "before_cursor_execute", lambda *about: asked.append(about[2]))
    entries = await service.entries(found)
    assert [(each.owner, each.members) for each in entries] == [("ann", ["bob", "root"])] * 20
    assert len(asked) == 1
