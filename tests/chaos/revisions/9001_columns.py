"""A column that may be missing, and one with a default, on every partition

Revision ID: 9001
Revises: 0035
"""

from alembic import op

revision = "9001"
down_revision = "0035"


def upgrade() -> None:
    """Old workers name their columns, and so do not see these."""
    op.execute(
        "ALTER TABLE background_jobs ADD COLUMN tenant text,"
        " ADD COLUMN weight smallint NOT NULL DEFAULT 1"
    )
    op.execute("ALTER TABLE reminders ADD COLUMN locale text")


def downgrade() -> None:
    """Drop them."""
    op.execute("ALTER TABLE background_jobs DROP COLUMN tenant, DROP COLUMN weight")
    op.execute("ALTER TABLE reminders DROP COLUMN locale")
