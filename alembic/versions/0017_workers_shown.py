"""job_workers.version, served_types.payload_schema: what operators are shown of workers and types

Revision ID: 0017
Revises: 0016
"""

from alembic import op

revision = "0017"
down_revision = "0016"

UPGRADE = """
ALTER TABLE job_workers ADD COLUMN IF NOT EXISTS version text;
ALTER TABLE served_types ADD COLUMN IF NOT EXISTS payload_schema jsonb;
COMMENT ON COLUMN served_types.payload_schema IS
  'JSON schema of the payload_model of its handler; NULL where it has none, or one that is too large';
"""

DOWNGRADE = """
ALTER TABLE job_workers DROP COLUMN version;
ALTER TABLE served_types DROP COLUMN payload_schema;
"""


def upgrade() -> None:
    """Columns that may be missing: workers of the version before leave them so."""
    op.execute(UPGRADE)


def downgrade() -> None:
    """Drop them."""
    op.execute(DOWNGRADE)
