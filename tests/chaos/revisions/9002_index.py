"""An index on the live jobs, built while they are worked on

Revision ID: 9002
Revises: 9001
"""

from alembic import op

revision = "9002"
down_revision = "9001"


def upgrade() -> None:
    """Concurrently, and so outside a transaction."""
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS jobs_live_tenant")
        op.execute("CREATE INDEX CONCURRENTLY jobs_live_tenant ON jobs_live (tenant)")


def downgrade() -> None:
    """Drop it."""
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY jobs_live_tenant")
