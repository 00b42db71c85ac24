"""Executions on runners whose timeout is known to a server that takes them up."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    longest = str(86_400_000)
    op.add_column("runner_runs", sa.Column("timeout_ms", sa.BigInteger(), nullable=False, server_default=longest))
