"""A project may have a list of hosts; `network` is then off, so that a server of an earlier version permits none."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    # Not as a batch: a table that is made again would lose the members, which are deleted with their project.
    op.add_column("projects", sa.Column("hosts", sa.Text(), server_default="[]", nullable=False))
