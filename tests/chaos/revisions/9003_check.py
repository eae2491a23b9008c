"""A rule for what is written from now on

Revision ID: 9003
Revises: 9002
"""

from alembic import op

revision = "9003"
down_revision = "9002"


def upgrade() -> None:
    """Not valid: nothing is read for it under the lock."""
    op.execute("ALTER TABLE jobs_live ADD CONSTRAINT jobs_live_weight CHECK (weight > 0) NOT VALID")


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE jobs_live DROP CONSTRAINT jobs_live_weight")
