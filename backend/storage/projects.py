"""Projects: places for commands, with an owner, members and a policy profile."""

import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, insert, or_, select, true, update

from backend.core.identity import PROFILE, NetworkAccess, Project, Role, User
from backend.core.ids import as_id
from backend.storage.database import Database, changes
from backend.storage.identities import checked_name, known_users
from backend.storage.tables import project_members, projects

LONGEST_NAME = 100  # characters
# A row for each member, or one without.
BY_ID = (
    select(projects, project_members.c.user_id)
    .outerjoin(project_members)
    .where(projects.c.id == bindparam("id"), projects.c.deleted_ms.is_(None))
)


def _listed(condition: ColumnElement[bool]) -> tuple[Select[Any], Select[Any]]:
    """The projects that were not deleted and meet the condition, the oldest first, and their members."""
    standing = condition & projects.c.deleted_ms.is_(None)
    members = select(project_members.c.project_id, project_members.c.user_id).join(projects).where(standing)
    return select(projects).where(standing).order_by(projects.c.id), members


ALL = _listed(true())
JOINED = select(project_members.c.project_id).where(project_members.c.user_id == bindparam("user"))
THEIRS = _listed(or_(projects.c.owner_id == bindparam("user"), projects.c.id.in_(JOINED)))


class SqlProjects:
    """The projects that were not deleted; of the others only the row remains. Every method raises StorageError."""

    def __init__(self, database: Database, now_ms: Callable[[], int], new_id: Callable[[], str]) -> None:
        self._database = database
        self._now_ms = now_ms
        self._new_id = new_id

    async def add(
        self,
        name: str,
        owner_id: str,
        profile: str = PROFILE,
        allowed_extra: Iterable[str] = (),
        network: NetworkAccess = False,
        metadata_only: bool = False,
    ) -> Project:
        """Add a project. Raises ValueError for an invalid name or an unknown owner."""
        project = Project(
            id=self._new_id(),
            name=checked_name(name, LONGEST_NAME),
            owner_id=as_id(owner_id),
            members=frozenset(),
            profile=checked_name(profile),
            allowed_extra=tuple(allowed_extra),
            network=network or False,
            metadata_only=metadata_only,
            created_ms=self._now_ms(),
        )
        row = {each: getattr(project, each) for each in Project.__slots__ if each != "members"}
        with known_users():
            values = {**row, "allowed_extra": _text(project.allowed_extra), **_network(network)}
            new = insert(projects).values(values)
            await self._database.write(changes(new))
        return project

    async def get(self, id: str) -> Project | None:
        """The project with this id, None when there is none or it was deleted."""
        found = await self._database.read_short(BY_ID, id=as_id(id))
        return _project(found[0], frozenset(row.user_id for row in found if row.user_id)) if found else None

    async def visible_to(self, user: User) -> list[Project]:
        """The projects that exist for `user`, the oldest first: all for an administrator, else own and joined ones."""
        which, members = ALL if user.role is Role.ADMIN else THEIRS
        values = {} if user.role is Role.ADMIN else {"user": user.id}
        found = await self._database.read_short(which, **values)
        return _projects(found, await self._database.read_short(members, **values)) if found else []

    async def change(
        self,
        id: str,
        *,
        name: str | None = None,
        profile: str | None = None,
        allowed_extra: Iterable[str] | None = None,
        network: NetworkAccess | None = None,
        metadata_only: bool | None = None,
        members: frozenset[str] | None = None,
    ) -> Project | None:
        """Change the given fields; returns the changed project, None if there is none.

        Raises ValueError for an invalid name or an unknown member; then nothing is changed.
        """
        given = {
            "name": None if name is None else checked_name(name, LONGEST_NAME),
            "profile": None if profile is None else checked_name(profile),
            "allowed_extra": None if allowed_extra is None else _text(tuple(allowed_extra)),
            **(dict.fromkeys(("network", "hosts")) if network is None else _network(network)),
            "metadata_only": metadata_only,
        }
        # Each column is set, if only to itself: this locks the row, so concurrent changes happen one after the other.
        values = {column: projects.c[column] if value is None else value for column, value in given.items()}
        with known_users():
            return await self._database.write(partial(_change, id=id, values=values, members=members))

    async def delete(self, id: str) -> bool:
        """Delete a project; False when there is none. Its row remains, because executions and the audit name it."""
        standing = update(projects).where(projects.c.id == as_id(id), projects.c.deleted_ms.is_(None))
        return await self._database.write(changes(standing.values(deleted_ms=self._now_ms()))) == 1


def _change(connection: Connection, id: str, values: dict[str, Any], members: frozenset[str] | None) -> Project | None:
    standing = update(projects).where(projects.c.id == as_id(id), projects.c.deleted_ms.is_(None))
    if not connection.execute(standing.values(values)).rowcount:
        return None
    if members is not None:
        _set_members(connection, id, members)
    return _find(connection, projects.c.id == as_id(id))[0]


def _set_members(connection: Connection, id: str, members: frozenset[str]) -> None:
    """Replace the members. The owner is not stored as a member, so that it is not listed twice."""
    owner = connection.execute(select(projects.c.owner_id).where(projects.c.id == as_id(id))).scalar_one()
    connection.execute(delete(project_members).where(project_members.c.project_id == id))
    if rows := [{"project_id": id, "user_id": as_id(member)} for member in sorted(members - {owner})]:
        connection.execute(insert(project_members), rows)


def _find(connection: Connection, condition: ColumnElement[bool]) -> list[Project]:
    """The projects that were not deleted and meet the condition, with their members."""
    which, members = _listed(condition)
    return _projects(connection.execute(which).all(), connection.execute(members).all())


def _projects(rows: Iterable[Any], members: Iterable[Any]) -> list[Project]:
    joined: dict[str, set[str]] = {}
    for member in members:
        joined.setdefault(member.project_id, set()).add(member.user_id)
    return [_project(row, frozenset(joined.get(row.id, ()))) for row in rows]


def _project(row: Any, members: frozenset[str]) -> Project:
    return Project(
        id=row.id,
        name=row.name,
        owner_id=row.owner_id,
        members=members,
        profile=row.profile,
        allowed_extra=tuple(json.loads(row.allowed_extra)),
        network=tuple(json.loads(row.hosts)) or row.network,
        metadata_only=row.metadata_only,
        created_ms=row.created_ms,
    )


def _network(access: NetworkAccess) -> dict[str, Any]:
    """The columns. With a list the network is off, so that an earlier version permits nothing."""
    return {"network": access is True, "hosts": _text(() if isinstance(access, bool) else access)}


def _text(entries: tuple[str, ...]) -> str:
    return json.dumps(list(entries))
