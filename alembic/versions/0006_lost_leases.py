"""jobs_live_lost: the few jobs that have lost a lease

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Claims leave alone what ends if its worker dies once more; from here it is found instead.

    Neither an enqueue nor a first run writes to it. A claim of a lost job is not HOT any more.
    """
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS jobs_live_lost")
        op.execute(
            "CREATE INDEX CONCURRENTLY jobs_live_lost ON jobs_live (next_run_at, (id + 0))"
            " WHERE lost_leases > 0"
        )


def downgrade() -> None:
    """Without it the newer version's listings would walk the table."""
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS jobs_live_lost")
