"""Hooks whose old secret is valid for a while after it was rotated."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("hooks", sa.Column("old_secret", sa.String(length=64), nullable=True))
    op.add_column("hooks", sa.Column("old_until_ms", sa.BigInteger(), nullable=False, server_default="0"))
