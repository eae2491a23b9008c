"""Find ends that nobody was told of: of parents, in all dependencies a page at a time, and of members of batches.

Forget dependencies that are old.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from service.db.connection import Link
from service.jobs.core.dependencies import DELETED
from service.jobs.store.batches import ENDED
from service.jobs.store.statement import Statement

LOOK_AT_PARENTS: Final = Statement("""
WITH page AS MATERIALIZED (
  SELECT d.child_id, d.parent_id FROM finmind_jobs.job_dependencies d
  WHERE NOT d.met AND (d.child_id, d.parent_id) > (:after_child::bigint, :after_parent::bigint)
  ORDER BY d.child_id, d.parent_id LIMIT :limit),
looks AS (
  INSERT INTO finmind_jobs.job_endings (job_id)
  SELECT DISTINCT p.parent_id FROM page p
  WHERE EXISTS (SELECT FROM finmind_jobs.jobs_live b WHERE b.id = p.child_id)
    AND NOT EXISTS (SELECT FROM finmind_jobs.jobs_live b WHERE b.id = p.parent_id)
    AND NOT EXISTS (SELECT FROM finmind_jobs.jobs_dead b WHERE b.id = p.parent_id
      AND b.status IN ('FAILED', 'DEAD_LETTER') AND b.has_children)
    AND NOT EXISTS (SELECT FROM finmind_jobs.job_endings e WHERE e.job_id = p.parent_id)
  RETURNING 1)
SELECT child_id, parent_id, (SELECT count(*) FROM looks), (SELECT count(*) FROM page) FROM page
ORDER BY child_id DESC, parent_id DESC LIMIT 1
""")
"""Of children from `:after_child` on, have the parents looked at that have ended and told nobody: the version
before ended them, or plain SQL deleted them."""


DROP_DEPENDENCIES: Final = Statement("""
WITH page AS MATERIALIZED (
  SELECT d.ctid AS place, d.child_id, d.parent_id FROM finmind_jobs.job_dependencies d
  WHERE (d.child_id, d.parent_id) > (:after_child::bigint, :after_parent::bigint)
    AND d.created_at < now() - make_interval(days => :age)
  ORDER BY d.child_id, d.parent_id LIMIT :limit),
gone AS (
  DELETE FROM finmind_jobs.job_dependencies d USING page p WHERE d.ctid = p.place
    AND NOT EXISTS (SELECT FROM finmind_jobs.jobs_live b WHERE b.id = d.child_id)
    AND NOT EXISTS (SELECT FROM finmind_jobs.jobs_dead b WHERE b.id = d.child_id))
SELECT child_id, parent_id, 0, (SELECT count(*) FROM page) FROM page
ORDER BY child_id DESC, parent_id DESC LIMIT 1
""")
"""Of children from `:after_child` on, what is older than `:age` days, while they may no longer run."""


Place: TypeAlias = tuple[int, int]
"""Of a dependency among those of all children: its child, and its parent."""


START: Final[Place] = 0, 0


LOST_MEMBERS: Final = Statement(f"""
WITH lost AS MATERIALIZED (
  SELECT b.id, (b.jobs - ({ENDED}))::int AS jobs FROM finmind_jobs.batches b
  WHERE b.completed_at IS NULL AND b.closed_at IS NOT NULL AND {ENDED} < b.jobs
    AND NOT EXISTS (SELECT FROM finmind_jobs.job_endings e WHERE e.batch_id = b.id)
    AND NOT EXISTS (SELECT FROM finmind_jobs.jobs_live j WHERE j.batch_id = b.id)
  ORDER BY b.id LIMIT :limit)
INSERT INTO finmind_jobs.job_endings (batch_id, status, jobs)
SELECT id, '{DELETED}', jobs FROM lost
RETURNING batch_id, jobs
""")
"""Count members as deleted of which nothing is known, of batches that would wait for them for ever: the
version before ended them, or plain SQL deleted them. Each end is noted in the statement that moves the job,
so that a batch without live members and without notes has had all."""


async def look_at_parents(link: Link, *, after: Place, limit: int) -> tuple[Place, int]:
    """Have ended parents looked at, for so many dependencies; where the next look begins, and how many."""
    rows = await link.fetch(
        *LOOK_AT_PARENTS.bind(after_child=after[0], after_parent=after[1], limit=limit)
    )
    return _next(rows, limit), rows[0][2] if rows else 0


async def drop_old(link: Link, *, after: Place, days: int, limit: int) -> Place:
    """Forget who waited for whom, for so many dependencies; where the next call begins."""
    rows = await link.fetch(
        *DROP_DEPENDENCIES.bind(after_child=after[0], after_parent=after[1], age=days, limit=limit)
    )
    return _next(rows, limit)


def _next(rows: Sequence[Any], limit: int) -> Place:
    """Behind the last that was looked at; at the start again, where there are no more."""
    return (rows[0][0], rows[0][1]) if rows and rows[0][3] == limit else START


async def find_lost_members(link: Link, *, limit: int) -> dict[int, int]:
    """Count what up to so many batches wait for in vain: how many members of each."""
    rows = await link.fetch(*LOST_MEMBERS.bind(limit=limit))
    return {row[0]: row[1] for row in rows}
