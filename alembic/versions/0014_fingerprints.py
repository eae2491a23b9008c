"""fingerprint: which cause a dead letter has

Revision ID: 0014
Revises: 0013
"""

from alembic import op

revision = "0014"
down_revision = "0013"

UPGRADE = """
ALTER TABLE background_jobs ADD COLUMN IF NOT EXISTS fingerprint text;
COMMENT ON COLUMN background_jobs.fingerprint IS
  'which cause a dead letter has; NULL: it is not dead, or the leader has not read it yet';
"""


def upgrade() -> None:
    """A column without a default: workers of the version before leave it out."""
    op.execute(UPGRADE)
    with op.get_context().autocommit_block():
        for name, what in (
            ("jobs_dead_fingerprint", "(fingerprint, id)"),
            ("jobs_dead_without_fingerprint", "(id) WHERE fingerprint IS NULL"),
        ):
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON jobs_dead {what}")


def downgrade() -> None:
    """The indexes go with the column."""
    op.execute("ALTER TABLE background_jobs DROP COLUMN fingerprint")
