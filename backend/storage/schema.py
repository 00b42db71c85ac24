"""The tables as this version needs them: made at once in a new database, brought there by migrations in an older one."""

from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, select, text

from backend.storage.tables import metadata

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x6761746570  # an arbitrary number that no other application uses
LATEST = max(path.name for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))[:4]
NEW = ""

# As Alembic makes and reads it.
VERSION = Table(
    "alembic_version",
    MetaData(naming_convention={"pk": "%(table_name)s_pkc"}),
    Column("version_num", String(32), primary_key=True),
)

# SQLite has no type for times: this text compares with that of its `datetime('now', '-1 day')`.
CREATED_AT = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', created_ms / 1000.0, 'unixepoch')",
    "postgresql": "to_timestamp(created_ms / 1000.0)",
}
VIEW = """create view agent_command_logs as select id, user_id, project_id, command, working_dir, \
status = 'succeeded' as success, exit_code, cast(null as text) as stdout, cast(null as text) as stderr, \
duration_ms, risk as risk_level, dry_run, {created_at} as created_at from executions"""


def bring_up_to_date(connection: Connection) -> None:
    """Bring the tables up to date; only one process at a time."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"select pg_advisory_xact_lock({MIGRATION_LOCK})"))
    version = _version(connection)
    if version == NEW:
        _make(connection)
    elif version != LATEST:
        _migrate(connection)


def _version(connection: Connection) -> str | None:
    """The last migration, NEW in an empty database, None where it is not known."""
    tables = inspect(connection).get_table_names()
    if VERSION.name in tables:
        return connection.execute(select(VERSION.c.version_num)).scalar()
    return None if tables else NEW


def _make(connection: Connection) -> None:
    """Make all tables, or none."""
    if connection.dialect.name == "sqlite":  # its driver begins a transaction at the first row only
        connection.exec_driver_sql("begin")
    metadata.create_all(connection, checkfirst=False)
    connection.exec_driver_sql(VIEW.format(created_at=CREATED_AT[connection.dialect.name]))
    VERSION.create(connection, checkfirst=False)
    connection.execute(insert(VERSION).values(version_num=LATEST))


def _migrate(connection: Connection) -> None:
    from alembic import command  # it takes as long to import as the rest of the storage
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
