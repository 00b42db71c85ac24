"""Hooks in the database, shared by all servers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, true, update

from backend.core.dataclasses import dataclass
from backend.core.hooks.model import Choice, Hook, Integer, Parameter, Text
from backend.core.ids import as_id
from backend.storage.database import Database, changes
from backend.storage.execution_rows import storable
from backend.storage.tables import hooks

TYPES: Mapping[str, type[Parameter]] = {"choice": Choice, "integer": Integer, "text": Text}
NAMES = {type: name for name, type in TYPES.items()}


@dataclass(frozen=True, slots=True)
class SqlHooks:
    """The hooks in the database; see `Hooks`. Every method raises StorageError."""

    database: Database

    async def add(self, hook: Hook, most: int) -> bool:
        """False if its owner has `most` already."""
        return await self.database.write(partial(_add, hook=hook, most=most))

    async def get(self, id: str) -> Hook | None:
        """A hook, None if there is none."""
        found = await self._where(hooks.c.id == as_id(id))
        return found[0] if found else None

    async def of(self, owner_id: str | None) -> Sequence[Hook]:
        """Those of an account, or all; the oldest first."""
        return await self._where(true() if owner_id is None else hooks.c.owner_id == as_id(owner_id))

    async def rotate(self, id: str, secret: str, old_until_ms: int) -> bool:
        """Replace the secret of a hook, which signs calls until then too; False if there is none."""
        new = {"secret": secret, "old_secret": hooks.c.secret, "old_until_ms": old_until_ms}
        its = update(hooks).where(hooks.c.id == as_id(id)).values(new)
        return await self.database.write(changes(its)) == 1

    async def delete(self, id: str) -> bool:
        """Delete a hook; False if there is none."""
        return await self.database.write(changes(delete(hooks).where(hooks.c.id == as_id(id)))) == 1

    async def _where(self, condition: ColumnElement[bool]) -> Sequence[Hook]:
        query = select(hooks).where(condition).order_by(hooks.c.id)
        return await self.database.read(lambda one: [_hook(row._mapping) for row in one.execute(query)])


def _add(connection: Connection, hook: Hook, most: int) -> bool:
    mine = select(func.count()).where(hooks.c.owner_id == hook.owner_id)
    if connection.execute(mine).scalar_one() >= most:
        return False
    row = {name: getattr(hook, name) for name in Hook.__slots__}
    texts = {name: storable(row[name]) for name in ("name", "command", "working_dir")}
    parameters = {name: {"type": NAMES[type(each)], **asdict(each)} for name, each in hook.parameters.items()}
    connection.execute(insert(hooks).values({**row, **texts, "parameters": json.dumps(parameters)}))
    return True


def _hook(values: Mapping[Any, Any]) -> Hook:
    found = {name: values[name] for name in Hook.__slots__}
    parameters = {name: _parameter(**fields) for name, fields in json.loads(found["parameters"]).items()}
    return Hook(**{**found, "parameters": parameters})


def _parameter(*, type: str, **fields: Any) -> Parameter:
    found = TYPES[type](**fields)
    return Choice(tuple(found.values)) if isinstance(found, Choice) else found
