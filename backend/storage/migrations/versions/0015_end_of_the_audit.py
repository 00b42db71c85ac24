"""Where the audit ends by now, between two signatures of its head."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.add_column("audit_head", sa.Column("end_seq", sa.BigInteger()))
    op.add_column("audit_head", sa.Column("end_hash", sa.LargeBinary(length=32)))
    op.add_column("audit_head", sa.Column("end_mac", sa.LargeBinary(length=32)))
