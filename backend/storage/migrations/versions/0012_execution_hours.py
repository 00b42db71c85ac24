"""Figures of each hour of an account, so that statistics read no million rows."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "execution_hours",
        sa.Column("user_id", sa.String(length=26), nullable=False),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("successful", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("high_risk", sa.Integer(), nullable=False),
        sa.Column("measured", sa.Integer(), nullable=False),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "hour", name=op.f("pk_execution_hours")),
    )
    op.create_index(op.f("ix_execution_hours_hour"), "execution_hours", ["hour"])
    op.create_table(
        "summarised_hours",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("until", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_summarised_hours")),
    )
