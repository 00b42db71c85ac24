"""Pages of a history by status, also by a rare one."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_index(op.f("ix_executions_status_id"), "executions", ["status", "id"])
    op.create_index(op.f("ix_executions_user_id_status_id"), "executions", ["user_id", "status", "id"])
    op.create_index(op.f("ix_executions_target_status_id"), "executions", ["target", "status", "id"])
    op.drop_index(op.f("ix_executions_status_lease_until_ms"), "executions")
