"""Runners of Django projects: their keys, commands, answers, runs and output."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    _add_keys()
    _add_commands()
    _add_runs()


def _add_keys() -> None:
    op.create_table(
        "runner_keys",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("project_id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger()),
        sa.Column("suspended", sa.Text()),
        sa.Column("seen_ms", sa.BigInteger()),
        sa.Column("runner_version", sa.String(length=64), nullable=False),
        sa.Column("python_version", sa.String(length=64), nullable=False),
        sa.Column("django_version", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_runner_keys_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runner_keys")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_runner_keys_secret_hash")),
    )
    op.create_index(op.f("ix_runner_keys_project_id"), "runner_keys", ["project_id"])


def _add_commands() -> None:
    op.create_table(
        "runner_commands",
        sa.Column("project_id", sa.String(length=26), nullable=False),
        sa.Column("commands", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=80), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_runner_commands_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_runner_commands")),
    )
    op.create_table(
        "runner_answers",
        sa.Column("key_id", sa.String(length=26), nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "nonce", name=op.f("pk_runner_answers")),
    )
    op.create_index(op.f("ix_runner_answers_created_ms"), "runner_answers", ["created_ms"])


def _add_runs() -> None:
    op.create_table(
        "runner_runs",
        sa.Column("execution", sa.String(length=26), nullable=False),
        sa.Column("key_id", sa.String(length=26), nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("begun_ms", sa.BigInteger(), nullable=False),
        sa.Column("heard_ms", sa.BigInteger(), nullable=False),
        sa.Column("muted", sa.Boolean(), nullable=False),
        sa.Column("stop", sa.Integer(), nullable=False),
        sa.Column("end_status", sa.String(length=16)),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("closed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("execution", name=op.f("pk_runner_runs")),
    )
    op.create_index(op.f("ix_runner_runs_begun_ms"), "runner_runs", ["begun_ms"])
    op.create_table(
        "runner_chunks",
        sa.Column("execution", sa.String(length=26), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("is_stderr", sa.Boolean(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("execution", "number", name=op.f("pk_runner_chunks")),
    )
