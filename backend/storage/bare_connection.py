"""A connection to SQLite without SQLAlchemy in between, which takes most of the time of a short transaction."""

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from sqlalchemy import Executable, Select
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.sql import ClauseElement

from backend.core.dataclasses import dataclass

T = TypeVar("T")

DIALECT = sqlite.dialect(paramstyle="named")

# The driver asks each value that is no number or text for its adapter, and takes 3,000 instructions to find that there is none.
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(type(None), lambda null: null)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Makes the rows of a query from those of the driver: a tuple with names, of values as SQLAlchemy returns them."""

    make: Callable[[Sequence[Any]], Any]
    converted: Sequence[tuple[int, Callable[[Any], Any]]]

    @classmethod
    def of(cls, query: Select[Any]) -> "_Columns":
        columns = query.selected_columns
        row = namedtuple("row", columns.keys(), rename=True)  # type: ignore[misc]
        found = enumerate(each.type.dialect_impl(DIALECT).result_processor(DIALECT, None) for each in columns)
        return cls(row._make, [(place, convert) for place, convert in found if convert])

    def row(self, values: Sequence[Any]) -> Any:
        converted = list(values)
        for place, convert in self.converted:
            converted[place] = convert(converted[place])
        return self.make(converted)


class BareConnection:
    """Executes statements of SQLAlchemy. Each is compiled once; values go to the driver as they are."""

    def __init__(self, pooled: PoolProxiedConnection) -> None:
        self._pooled = pooled
        self._driver = cast(sqlite3.Connection, cast(DBAPIConnection, pooled.driver_connection))
        self._driver.isolation_level = None  # transactions begin and end here
        self._cursor = self._driver.cursor()
        self._texts: dict[tuple[object, ...], tuple[str, Mapping[str, Any]]] = {}
        self._columns: dict[Select[Any], _Columns] = {}

    def transact(self, work: Callable[["BareConnection"], T]) -> T:
        """Run `work` in a transaction."""
        self._cursor.execute("begin immediate")
        try:
            result = work(self)
            self._cursor.execute("commit")
        except BaseException:
            if self._driver.in_transaction:
                self._cursor.execute("rollback")
            raise
        return result

    def execute(self, statement: Executable, values: dict[str, Any] | Sequence[Mapping[str, Any]]) -> sqlite3.Cursor:
        """Execute a statement, or once for each of many rows that have the same names. `rowcount` is that of all."""
        rows = [values] if isinstance(values, dict) else values
        text, constants = self._compiled(statement, rows[0])
        if constants:
            rows = [{**constants, **row} for row in rows]
        if len(rows) == 1:
            return self._cursor.execute(text, cast(dict[str, Any], rows[0]))
        return self._cursor.executemany(text, rows)

    def rows(self, query: Select[Any], values: Mapping[str, Any]) -> Sequence[Any]:
        """The rows of a query, each outside of any transaction."""
        if query not in self._columns:
            self._columns[query] = _Columns.of(query)
        return list(map(self._columns[query].row, self.execute(query, dict(values)).fetchall()))

    def _compiled(self, statement: Executable, row: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """The text of a statement for rows with these names, and the values that it has itself."""
        key = (statement, *row)
        if key not in self._texts:
            compiled = cast(ClauseElement, statement).compile(dialect=DIALECT, column_keys=list(row))
            constants = {name: value for name, value in compiled.params.items() if name not in row}
            self._texts[key] = str(compiled), constants
        return self._texts[key]

    def close(self) -> None:
        """Give the connection back to its pool."""
        self._cursor.close()
        self._pooled.close()
