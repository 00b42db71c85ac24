"""The history has the target of each execution."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    with op.batch_alter_table("executions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("target", sa.String(length=128), server_default="local", nullable=False))
        batch_op.drop_index(batch_op.f("ix_executions_project_id_id"))
        batch_op.create_index(batch_op.f("ix_executions_target_id"), ["target", "id"], unique=False)
    op.execute("update executions set target = 'project:' || project_id where project_id is not null")
