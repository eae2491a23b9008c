"""jobs_live_keys: the jobs of each concurrency key, for queues whose keys take turns

Revision ID: 0027
Revises: 0026
"""

from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    """Of jobs with a key alone: others cost what they did."""
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS jobs_live_keys")
        op.execute(
            "CREATE INDEX CONCURRENTLY jobs_live_keys ON jobs_live (queue, priority,"
            ' (left(concurrency_key, 255)) COLLATE "C", next_run_at, (id + 0))'
            " WHERE concurrency_key IS NOT NULL"
        )


def downgrade() -> None:
    """Workers of the version before read queues.key_fairness and do not act on it."""
    op.execute("DROP INDEX jobs_live_keys")
