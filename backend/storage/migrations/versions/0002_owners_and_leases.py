"""Executions have an owner and a lease, and may wait in a queue."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("executions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("owner", sa.String(length=26), nullable=True))
        batch_op.add_column(sa.Column("lease_until_ms", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("job", sa.Text(), nullable=True))
        batch_op.drop_index(batch_op.f("ix_executions_status_folder"))
        batch_op.create_index(
            batch_op.f("ix_executions_status_lease_until_ms"), ["status", "lease_until_ms"], unique=False
        )
    # What runs on record was started by a server of the version before, which has to be stopped for this.
    op.execute("update executions set lease_until_ms = 0 where status = 'running'")
