"""How many statements a list of projects costs."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event, select

from backend.core.identity import Role
from backend.storage.database import Database
from backend.storage.identities import SqlIdentities
from backend.storage.projects import SqlProjects
from backend.storage.tables import projects
from backend.transports.projects_api import ProjectRoutes
from tests.storage.conftest import Clock
from tests.storage.contract.test_identities import added


async def test_a_list_of_many_asks_for_all_names_at_once(
    database: Database, clock: Clock, new_id: Callable[[], str]
) -> None:
    identities, places = SqlIdentities(database, clock, new_id), SqlProjects(database, clock, new_id)
    roles = {"ann": Role.OPERATOR, "bob": Role.VIEWER, "root": Role.ADMIN}
    ann, bob, root = [await added(identities, name, role) for name, role in roles.items()]
    for number in range(20):
        made = await places.add(f"p{number}", ann.id)
        await places.change(made.id, members=frozenset({bob.id, root.id}))
    routes = ProjectRoutes(None, None, identities)  # type: ignore[arg-type]
    found, asked = await places.visible_to(ann), list[str]()

    def note(*about: Any) -> None:
        asked.append(about[2])

    event.listen(Engine, "before_cursor_execute", note)
    entries = await routes.entries(found)
    event.remove(Engine, "before_cursor_execute", note)
    assert [(each.owner, each.members) for each in entries] == [("ann", ["bob", "root"])] * 20
    assert len(asked) == 1


async def test_with_a_list_the_network_is_off_for_an_earlier_version(
    database: Database, clock: Clock, new_id: Callable[[], str]
) -> None:
    """It reads this column alone, and must not permit every host."""
    ann = await added(SqlIdentities(database, clock, new_id), "ann", Role.OPERATOR)
    made = await SqlProjects(database, clock, new_id).add("p", ann.id, network=("x.example",))
    found = await database.read(lambda connection: connection.execute(select(projects.c.network)).scalar_one())
    assert (found, made.network) == (False, ("x.example",))
