"""The history can be queried with SQL under the documented names of its columns: the view `agent_command_logs`.

`stdout` and `stderr` are null, because output is in the recordings. A migration that changes one of the view's columns
has to drop it first and create it again.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

# SQLite has no type for times: this text compares with that of its `datetime('now', '-1 day')`.
CREATED_AT = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', created_ms / 1000.0, 'unixepoch')",
    "postgresql": "to_timestamp(created_ms / 1000.0)",
}


def upgrade() -> None:
    created_at = CREATED_AT[op.get_bind().dialect.name]
    op.execute(
        "create view agent_command_logs as select id, user_id, project_id, command, working_dir, "
        "status = 'succeeded' as success, exit_code, cast(null as text) as stdout, cast(null as text) as stderr, "
        f"duration_ms, risk as risk_level, dry_run, {created_at} as created_at from executions"
    )
