"""${message}"""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Say what changes."""
    ${upgrades if upgrades else "raise NotImplementedError"}


def downgrade() -> None:
    """The ledger is append-only: a migration is undone by another one."""
    raise NotImplementedError("write a new revision instead")
