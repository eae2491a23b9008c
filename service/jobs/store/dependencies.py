"""Make jobs wait for other jobs, and let them go or cancel them when those have ended.

Nobody ever waits for a lock that a caller's transaction holds for long: rows that are locked are left
for the next time.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from service.db.connection import Link
from service.jobs.core.dependencies import AFTER, Dependency
from service.jobs.core.job import DEAD, DONE, LIVE, JobId, JobStatus
from service.jobs.core.lane import Lane
from service.jobs.store.enqueue import Fetch
from service.jobs.store.fragments import (
    ID_BY_PRIMARY_KEY,
    NO_LEASE,
    PARENT_FAILED_ENTRY,
    history,
    keep_ended,
)
from service.jobs.store.statement import Statement, Transition

_ENDED: Final = ", ".join(f"'{status}'" for status in sorted(DEAD | DONE))


PARENTS: Final = Statement("""
SELECT b.id, b.job_type, b.queue, b.enqueued_by FROM finmind_jobs.background_jobs b
WHERE b.id = ANY (:ids::bigint[])
""")


FLAG_PARENTS: Final = Statement("""
WITH free AS MATERIALIZED (
  SELECT b.id FROM finmind_jobs.background_jobs b
  WHERE b.id = ANY (:ids::bigint[]) AND b.status = ANY (:statuses::text[]) AND b.has_children IS NOT TRUE
  ORDER BY b.id FOR NO KEY UPDATE SKIP LOCKED)
UPDATE finmind_jobs.background_jobs b SET has_children = true FROM free
WHERE b.id = free.id AND b.status = ANY (:statuses::text[])
RETURNING b.id
""")
"""Have these jobs tell of their end. Those that others have locked are left out.

In a caller's transaction only PENDING ones: a RUNNING job that stays locked could neither have its lease
extended nor be settled, and with it all jobs of its worker."""


LINK_CHILDREN: Final = Transition(f"""
WITH r AS (
  SELECT * FROM unnest(:parent_ids::bigint[], :child_ids::bigint[], :policies::text[])
    AS r(parent_id, child_id, policy)),
ended AS MATERIALIZED (
  SELECT b.id, b.status FROM finmind_jobs.background_jobs b
  WHERE b.id = ANY (:parent_ids::bigint[]) AND b.status IN ({_ENDED})),
linked AS (
  INSERT INTO finmind_jobs.job_dependencies (parent_id, child_id, on_parent_failure, outcome, met)
  SELECT r.parent_id, r.child_id, r.policy, e.status,
    COALESCE(e.status = 'SUCCESS' OR e.status IS NOT NULL AND r.policy = 'run', false)
  FROM r LEFT JOIN ended e ON e.id = r.parent_id
  RETURNING parent_id, child_id, met),
looks AS (
  INSERT INTO finmind_jobs.job_endings (job_id)
  SELECT DISTINCT parent_id FROM linked WHERE NOT met AND parent_id <> ALL (:flagged::bigint[]))
UPDATE finmind_jobs.jobs_live b SET held_for = '{AFTER}', held_since = clock_timestamp(),
  held_due_at = b.next_run_at, next_run_at = 'infinity'
FROM (SELECT DISTINCT child_id AS id FROM linked WHERE NOT met) r WHERE {ID_BY_PRIMARY_KEY}
RETURNING b.id
""")
"""Hold new jobs until their parents have ended. A parent that ended before counts at once; one that was
not flagged (it runs, say) is looked at after the commit: it may end meanwhile and not know of its child."""


TAKE_ENDINGS: Final = Statement("""
UPDATE finmind_jobs.job_endings e SET taken_at = clock_timestamp()
WHERE e.ctid = ANY (ARRAY(
  SELECT t.ctid FROM finmind_jobs.job_endings t
  WHERE t.taken_at IS NULL OR t.taken_at < now() - make_interval(secs => :again_seconds)
  ORDER BY t.id LIMIT :limit FOR UPDATE SKIP LOCKED))
RETURNING e.id, e.job_id, e.status, e.batch_id, e.owed_by
""")
"""The oldest ends that nobody acts on; those that somebody has not come to an end with are taken again."""


GIVE_BACK_ENDINGS: Final = Statement("""
UPDATE finmind_jobs.job_endings SET taken_at = now() - make_interval(secs => :seconds)
WHERE id = ANY (:ids::bigint[])
""")


PARENT_STATES: Final = Statement("""
SELECT b.id, b.status, COALESCE(b.has_children, false) FROM finmind_jobs.background_jobs b
WHERE b.id = ANY (:ids::bigint[])
""")


MARK_CHILDREN: Final = Statement("""
WITH r AS (SELECT * FROM unnest(:ids::bigint[], :statuses::text[]) AS r(parent_id, status)),
page AS MATERIALIZED (
  SELECT d.parent_id, d.child_id, d.on_parent_failure AS policy, r.status,
    d.met OR r.status = 'SUCCESS' OR d.on_parent_failure = 'run' AS met
  FROM r JOIN finmind_jobs.job_dependencies d USING (parent_id)
  WHERE d.parent_id = ANY (:ids::bigint[])
    AND (d.parent_id, d.child_id) > (:after_parent::bigint, :after_child::bigint)
  ORDER BY d.parent_id, d.child_id LIMIT :limit FOR NO KEY UPDATE OF d),
marked AS (
  UPDATE finmind_jobs.job_dependencies d SET outcome = p.status, met = p.met
  FROM page p WHERE (d.parent_id, d.child_id) = (p.parent_id, p.child_id) AND NOT d.met)
SELECT parent_id, child_id, policy, status, met FROM page ORDER BY parent_id, child_id
""")
"""Count these parents for their children, a page at a time. To do it again changes nothing and answers the
same: whoever was cut off behind it leaves nothing undone."""


_HELD: Final = f"b.held_for = '{AFTER}' AND b.status = 'PENDING'"
"""Plain SQL, or the version before, may have made a job due that was held: it runs then, held or not."""


RELEASE_CHILDREN: Final = Transition(f"""
WITH ready AS MATERIALIZED (
  SELECT b.id FROM unnest(:ids::bigint[]) AS r(id) JOIN finmind_jobs.jobs_live b ON {ID_BY_PRIMARY_KEY}
  WHERE {_HELD} AND NOT EXISTS (
    SELECT FROM finmind_jobs.job_dependencies d WHERE d.child_id = b.id AND NOT d.met)),
free AS MATERIALIZED (
  SELECT b.id FROM finmind_jobs.jobs_live b
  WHERE b.id = ANY (ARRAY(SELECT id FROM ready)) AND {_HELD}
  ORDER BY b.id FOR NO KEY UPDATE SKIP LOCKED),
released AS (
  UPDATE finmind_jobs.jobs_live b SET
    next_run_at = greatest(b.held_due_at, clock_timestamp()),
    held_for = NULL, held_since = NULL, held_due_at = NULL
  FROM free r WHERE {ID_BY_PRIMARY_KEY}
  RETURNING b.id, b.queue, b.priority)
SELECT id, queue, priority FROM ready LEFT JOIN released USING (id)
""")
"""Let those go whose parents have all been counted. A statement of its own, after the commit of
MARK_CHILDREN: of two that count the last parents at the same time at least one sees both counted. A due job
goes to the end of its lane: workers have passed what is before that."""


CANCEL_CHILDREN: Final = Transition(f"""
WITH r AS (
  SELECT * FROM unnest(:ids::bigint[], :parent_ids::bigint[], :parent_statuses::text[])
    AS r(id, parent_id, parent_status)),
held AS MATERIALIZED (
  SELECT b.id, r.parent_id, r.parent_status FROM r JOIN finmind_jobs.jobs_live b ON {ID_BY_PRIMARY_KEY}
  WHERE {_HELD}),
free AS MATERIALIZED (
  SELECT b.id FROM finmind_jobs.jobs_live b
  WHERE b.id = ANY (ARRAY(SELECT id FROM held)) AND {_HELD}
  ORDER BY b.id FOR UPDATE SKIP LOCKED),
gone AS (
  DELETE FROM finmind_jobs.jobs_live b USING free JOIN held r USING (id) WHERE {ID_BY_PRIMARY_KEY}
  RETURNING b.*, {history("b.errors", PARENT_FAILED_ENTRY)} AS history),
{keep_ended(NO_LEASE | {"status": "'CANCELLED'", "errors": "history"})}
SELECT id, job_type FROM held LEFT JOIN kept USING (id)
""")
"""Cancel children that a parent's end leaves nothing to wait for. Children of theirs hear of it as of any
other end."""


class Parent(NamedTuple):
    """A job that a new one names in `after`."""

    id: JobId
    job_type: str
    queue: str
    enqueued_by: str | None


class Ending(NamedTuple):
    """What others wait for; `status` None: look whether the job has ended."""

    id: int
    job_id: JobId | None
    """Where other jobs wait for it."""
    status: str | None
    batch_id: int | None
    owed_by: JobId | None
    """The job, where its callback or the time of its result is not seen to."""


class Marked(NamedTuple):
    """A child, and what the end of one of its parents means for it."""

    parent_id: JobId
    child_id: JobId
    policy: str
    status: str
    met: bool


async def parents(run: Fetch, ids: Iterable[JobId]) -> list[Parent]:
    """Those of these jobs that exist."""
    return [Parent(*row) for row in await run(*PARENTS.bind(ids=sorted(ids)))]


async def link(run: Fetch, dependencies: Sequence[Dependency]) -> set[JobId]:
    """Have new jobs wait for their parents, in the transaction that made them; those that are held."""
    parent_ids = sorted({one.parent_id for one in dependencies})
    flagged = await run(*FLAG_PARENTS.bind(ids=parent_ids, statuses=[JobStatus.PENDING]))
    rows = await run(
        *LINK_CHILDREN.bind(
            parent_ids=[one.parent_id for one in dependencies],
            child_ids=[one.child_id for one in dependencies],
            policies=[one.policy for one in dependencies],
            flagged=[row[0] for row in flagged],
        )
    )
    return {JobId(row[0]) for row in rows}


async def take_endings(link: Link, *, limit: int, again_seconds: float) -> list[Ending]:
    """Take the oldest ends to act on, oldest first."""
    rows = await link.fetch(*TAKE_ENDINGS.bind(limit=limit, again_seconds=again_seconds))
    return sorted((Ending(*row) for row in rows), key=lambda ending: ending.id)


async def give_back_endings(link: Link, ids: Iterable[int], *, taken_before: float) -> None:
    """Have ends taken again that could not be acted on, as if they had been taken so long ago."""
    await link.fetch(*GIVE_BACK_ENDINGS.bind(ids=sorted(ids), seconds=taken_before))


async def flag(link: Link, ids: Sequence[JobId]) -> None:
    """Have these jobs tell of their end, if there may be one yet and nobody has locked them."""
    await link.fetch(*FLAG_PARENTS.bind(ids=ids, statuses=sorted(LIVE | DEAD)))


async def states(link: Link, ids: Sequence[JobId]) -> dict[JobId, tuple[str, bool]]:
    """The status of these jobs, and whether they tell of their end."""
    return {
        JobId(row[0]): (row[1], row[2]) for row in await link.fetch(*PARENT_STATES.bind(ids=ids))
    }


async def mark(
    link: Link, ended: Sequence[tuple[JobId, str]], *, after: tuple[int, int], limit: int
) -> list[Marked]:
    """Count these parents for the next children behind `after`, a parent and a child."""
    rows = await link.fetch(
        *MARK_CHILDREN.bind(
            ids=[job_id for job_id, _ in ended],
            statuses=[status for _, status in ended],
            after_parent=after[0],
            after_child=after[1],
            limit=limit,
        )
    )
    return [Marked(*row) for row in rows]


async def release(link: Link, ids: Sequence[JobId]) -> dict[JobId, Lane | None]:
    """Let children go whose parents have all been counted: their lanes; None: somebody has locked it."""
    rows = await link.fetch(*RELEASE_CHILDREN.bind(ids=ids))
    return {JobId(row[0]): None if row[1] is None else Lane(row[1], row[2]) for row in rows}


async def cancel(
    link: Link, failed: Sequence[Marked], *, max_errors: int
) -> dict[JobId, str | None]:
    """Cancel children for the end of a parent: the type of each; None: somebody has locked it."""
    rows = await link.fetch(
        *CANCEL_CHILDREN.bind(
            ids=[one.child_id for one in failed],
            parent_ids=[one.parent_id for one in failed],
            parent_statuses=[one.status for one in failed],
            max_errors=max_errors,
        )
    )
    return {JobId(row[0]): row[1] for row in rows}
