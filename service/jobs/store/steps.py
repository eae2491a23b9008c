"""Store and read the steps of jobs."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.connection import Link
from service.db.session import fetch
from service.jobs.core.claimed_job import Lease
from service.jobs.core.job import JobId
from service.jobs.core.steps import NewStep, StoredStep
from service.jobs.store.enqueue import Fetch
from service.jobs.store.fragments import ID_BY_PRIMARY_KEY, readable
from service.jobs.store.statement import Statement

STORE: Final = Statement(f"""
WITH held AS (
  SELECT r.* FROM unnest(:ids::bigint[], :tokens::bigint[], :names::text[], :kinds::text[],
    :attempts::int[], :seconds::float8[], :results::text[], :wait_seconds::float8[],
    :wait_untils::timestamptz[])
    AS r(id, token, name, kind, attempt, seconds, result, wait_seconds, wait_until)
  JOIN finmind_jobs.jobs_live b ON {ID_BY_PRIMARY_KEY}
  WHERE b.lease_token = r.token AND b.status = 'RUNNING' FOR NO KEY UPDATE OF b),
stored AS (
  INSERT INTO finmind_jobs.job_steps
    (job_id, name, kind, attempt, lease_token, started_at, finished_at, result, wait_until)
  SELECT id, name, kind, attempt, token, clock_timestamp() - make_interval(secs => seconds),
    CASE WHEN wait_seconds IS NULL THEN clock_timestamp() END, result::json,
    COALESCE(wait_until, clock_timestamp() + make_interval(secs => wait_seconds))
  FROM held ON CONFLICT DO NOTHING RETURNING job_id, name)
SELECT held.id, held.token, held.name, stored.name IS NOT NULL
FROM held LEFT JOIN stored ON stored.job_id = held.id AND stored.name = held.name
""")
"""Keeps the results of steps, and until when others wait, fenced by their tokens. The job is locked: a claim that takes it over
waits until they are there, and reads them. Returns those whose lease held, and whether each is new:
what is there already, since an answer was lost, stays."""


OF_JOB: Final = Statement("""
SELECT name, kind, result::text, finished_at IS NOT NULL, timed_out,
  COALESCE(date_part('epoch', wait_until - clock_timestamp()), 0)
FROM finmind_jobs.job_steps WHERE job_id = :job_id
""")


END_WAIT: Final = Statement(f"""
WITH held AS MATERIALIZED (
  SELECT b.id FROM unnest(:ids::bigint[], :tokens::bigint[]) AS r(id, token)
  JOIN finmind_jobs.jobs_live b ON {ID_BY_PRIMARY_KEY}
  WHERE b.lease_token = r.token AND b.status = 'RUNNING' FOR NO KEY UPDATE OF b)
UPDATE finmind_jobs.job_steps s
SET finished_at = clock_timestamp(), timed_out = e.name IS NULL, result = e.data
FROM held LEFT JOIN finmind_jobs.job_events e ON e.job_id = held.id AND e.name = :name
WHERE s.job_id = held.id AND s.name = :name AND s.kind = 'event' AND s.finished_at IS NULL
  AND (e.name IS NOT NULL OR s.wait_until <= clock_timestamp())
RETURNING s.kind, s.result::text, true, s.timed_out
""")
"""Ends a wait for an event that had been sent before, or whose time is over, fenced by its token. What is
sent once the step is there ends it by itself (`SEND_EVENT`): that locks the job too, so that one of the
two sees the other."""


DELETE_STEPS: Final = Statement("""
WITH steps AS (DELETE FROM finmind_jobs.job_steps WHERE job_id = ANY (:job_ids::bigint[]))
DELETE FROM finmind_jobs.job_events WHERE job_id = ANY (:job_ids::bigint[])
""")


FORGET_TIMEOUTS: Final = Statement("""
DELETE FROM finmind_jobs.job_steps WHERE job_id = ANY (:job_ids::bigint[]) AND timed_out
""")


_LISTED: Final = ("started_at", "finished_at", "wait_until")
LIST_STEPS: Final = Statement(f"""
SELECT name, kind, attempt, {", ".join(map(readable, _LISTED))}, timed_out,
  left(result::text, :max_chars), length(result::text)
FROM finmind_jobs.job_steps WHERE job_id = :job_id ORDER BY started_at, name LIMIT :limit
""")


AWAITED: Final = Statement(f"""
SELECT DISTINCT ON (job_id) job_id, kind, name, {readable("started_at")}, {readable("wait_until")}
FROM finmind_jobs.job_steps
WHERE job_id = ANY (:job_ids::bigint[]) AND finished_at IS NULL AND wait_until > now()
ORDER BY job_id, job_steps.wait_until DESC
""")
"""The steps that jobs wait at."""


def _drop_of_no_job(table: str) -> Statement:
    return Statement(f"""
WITH page AS MATERIALIZED (
  SELECT job_id FROM finmind_jobs.{table} WHERE job_id > :after
  GROUP BY job_id ORDER BY job_id LIMIT :limit),
gone AS (
  DELETE FROM finmind_jobs.{table} WHERE job_id = ANY (ARRAY(
    SELECT p.job_id FROM page p LEFT JOIN LATERAL (
      SELECT true AS found FROM finmind_jobs.background_jobs b WHERE b.id = p.job_id LIMIT 1) j ON true
    WHERE j.found IS NULL)))
SELECT max(job_id), count(*) < :limit FROM page
""")


DROP_STEPS_OF_NO_JOB: Final = _drop_of_no_job("job_steps")


DROP_EVENTS_OF_NO_JOB: Final = _drop_of_no_job("job_events")
"""Drop what is kept of jobs that are gone, among the next jobs that have any. The last of these jobs, and
whether it was the last of all. The limit makes the look for each job a probe."""


async def store(link: Link, steps: Sequence[NewStep]) -> dict[tuple[Lease, str], bool]:
    """Keep the results of steps: those whose lease held, by lease and name; false: it was there before."""
    ordered = sorted(steps, key=lambda step: (step.lease, step.name))
    rows = await link.fetch(
        *STORE.bind(
            ids=[step.lease[0] for step in ordered],
            tokens=[step.lease[1] for step in ordered],
            names=[step.name for step in ordered],
            kinds=[step.kind.value for step in ordered],
            attempts=[step.attempt for step in ordered],
            seconds=[step.seconds for step in ordered],
            results=[step.result for step in ordered],
            wait_seconds=[step.wait_seconds for step in ordered],
            wait_untils=[step.wait_until for step in ordered],
        )
    )
    return {((row[0], row[1]), row[2]): row[3] for row in rows}


async def of_job(link: Link, job_id: JobId) -> dict[str, StoredStep]:
    """The steps of a job, by name."""
    rows = await link.fetch(*OF_JOB.bind(job_id=job_id))
    return {row[0]: StoredStep(*row[1:]) for row in rows}


async def end_wait(link: Link, lease: Lease, name: str) -> StoredStep | None:
    """End a wait for an event, if it has come or its time is over; None: it goes on."""
    rows = await link.fetch(*END_WAIT.bind(ids=[lease[0]], tokens=[lease[1]], name=name))
    return StoredStep(*rows[0]) if rows else None


class ListedStep(NamedTuple):
    """A step for people."""

    name: str
    kind: str
    attempt: int
    started_at: datetime
    finished_at: datetime | None
    wait_until: datetime | None
    timed_out: bool
    result: str | None
    """The beginning of its JSON text; None: null."""
    result_chars: int | None
    """How long all of it is."""


class AwaitedStep(NamedTuple):
    """A step that a job waits at."""

    kind: str
    name: str
    since: datetime
    until: datetime


async def listed(
    session: AsyncSession, job_id: JobId, *, limit: int, max_chars: int
) -> list[ListedStep]:
    """The first `limit` steps of a job in order, and up to `max_chars` characters of each result."""
    bound = LIST_STEPS.bind(job_id=job_id, limit=limit, max_chars=max_chars)
    return [ListedStep(*row) for row in await fetch(session, *bound)]


async def awaited(session: AsyncSession, job_ids: Collection[int]) -> dict[int, AwaitedStep]:
    """What those of these jobs wait at that wait at a step."""
    if not job_ids:
        return {}
    rows = await fetch(session, *AWAITED.bind(job_ids=sorted(job_ids)))
    return {row[0]: AwaitedStep(*row[1:]) for row in rows}


async def forget(fetch: Fetch, job_id: JobId) -> None:
    """Have a job begin anew: delete its steps and events."""
    await fetch(*DELETE_STEPS.bind(job_ids=[job_id]))


async def forget_timeouts(session: AsyncSession, job_ids: Collection[JobId]) -> None:
    """Have jobs wait anew for events that did not come in time."""
    await fetch(session, *FORGET_TIMEOUTS.bind(job_ids=list(job_ids)))


async def delete(session: AsyncSession, job_ids: Collection[JobId]) -> None:
    """Delete the steps of jobs, and their events."""
    await fetch(session, *DELETE_STEPS.bind(job_ids=list(job_ids)))


async def drop_of_no_job(link: Link, statement: Statement, *, after: int, limit: int) -> int | None:
    """Drop what is kept of jobs that are gone, among the next `limit` jobs; the last, None at the end."""
    last, is_end = (await link.fetch(*statement.bind(after=after, limit=limit)))[0]
    return None if is_end else last
