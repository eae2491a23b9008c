"""jobs_live_claim: no index but the primary key finds a job by its id

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Built beside the old one, which then goes: claims, old workers' too, always have one.

    While a long transaction keeps dead entries in the indexes, PostgreSQL 18 takes those of the
    primary key for dearer than walking this index by its last column, and did that for each job
    that was settled. By the expression there is nothing of `id` in it to look for.
    """
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS jobs_live_place")
        op.execute(
            "CREATE INDEX CONCURRENTLY jobs_live_place"
            " ON jobs_live (queue, priority, next_run_at, (id + 0))"
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS jobs_live_claim")
    op.execute("ALTER INDEX jobs_live_place RENAME TO jobs_live_claim")


def downgrade() -> None:
    """The same the other way round."""
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS jobs_live_place")
        op.execute(
            "CREATE INDEX CONCURRENTLY jobs_live_place"
            " ON jobs_live (queue, priority, next_run_at, id)"
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS jobs_live_claim")
    op.execute("ALTER INDEX jobs_live_place RENAME TO jobs_live_claim")
