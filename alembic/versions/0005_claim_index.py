"""jobs_live_claim: no index but the primary key finds a job by its id

Revision ID: 0005
Revises: 0004
"""

from alembic import op
from sqlalchemy import text

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Built beside the old one, which then goes: claims, old workers' too, always have one.

    While a long transaction keeps dead entries in the indexes, PostgreSQL 18 takes those of the
    primary key for dearer than walking this index by its last column, and did that for each job
    that was settled. By the expression there is nothing of `id` in it to look for.
    """
    _replace_claim_index("jobs_live_place", "(id + 0)")


def downgrade() -> None:
    """The same the other way round."""
    _replace_claim_index("jobs_live_place_before", "id")


def _replace_claim_index(built: str, last: str) -> None:
    """Build an index under a name of its own; once it is valid it takes the claim index's place.

    Cut off anywhere and run again, it goes on with what was built: it may be the only one that
    claims have.
    """
    with op.get_context().autocommit_block():
        if not _is_valid(built):
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {built}")
            op.execute(
                f"CREATE INDEX CONCURRENTLY {built} ON jobs_live (queue, priority, next_run_at, {last})"
            )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS jobs_live_claim")
    op.execute(f"ALTER INDEX {built} RENAME TO jobs_live_claim")


def _is_valid(index: str) -> bool:
    if op.get_context().as_sql:
        return False  # printed for somebody to run: nothing is there yet
    found = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    return bool(op.get_bind().scalar(found, {"name": index}))
