"""List causes, and decide about one. What the leader has not folded yet is added up while reading."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import fetch
from service.jobs.core.causes import CauseFilters, CauseSort, CauseState
from service.jobs.core.job import FIRST_MOMENT
from service.jobs.store.statement import Statement

_CAUSES: Final = f"""
WITH lately AS MATERIALIZED (
  SELECT fingerprint, min(job_type) AS job_type, sum(jobs) AS jobs, sum(deaths) AS deaths,
    min(at) FILTER (WHERE deaths > 0) AS first_seen, max(at) FILTER (WHERE deaths > 0) AS last_seen
  FROM (SELECT *, CASE WHEN at BETWEEN {FIRST_MOMENT} AND now() THEN at ELSE now() END AS moment
    FROM finmind_jobs.cause_deltas) d (at_given, worker_id, jobs, deaths, fingerprint, job_type, at)
  GROUP BY fingerprint),
all_causes AS (
  SELECT fingerprint, CASE WHEN c.number IS NULL THEN d.job_type ELSE c.job_type END AS job_type,
    c.kind, c.title, COALESCE(c.is_overflow, false) AS is_overflow,
    GREATEST(COALESCE(c.jobs, 0) + COALESCE(d.jobs, 0), 0)::bigint AS jobs,
    GREATEST(COALESCE(c.deaths, 0) + COALESCE(d.deaths, 0), 0)::bigint AS deaths,
    LEAST(c.first_seen, d.first_seen, now()) AS first_seen,
    GREATEST(c.last_seen, d.last_seen, {FIRST_MOMENT}) AS last_seen,
    COALESCE(c.state, 'unresolved') AS state,
    CASE c.state WHEN 'unresolved' THEN c.regressed_at END AS regressed_at,
    COALESCE(c.workers, '{{}}') AS workers, c.changed_at, c.changed_by, c.reason,
    CASE c.state WHEN 'ignored' THEN c.ignored_until END AS ignored_until,
    CASE c.state WHEN 'ignored' THEN c.ignored_deaths END AS ignored_deaths
  FROM finmind_jobs.causes c FULL JOIN lately d USING (fingerprint))"""

_SAMPLE: Final = """
LEFT JOIN LATERAL (
  SELECT b.id AS sample_id, left(b.last_error, 2300) AS sample_error FROM finmind_jobs.jobs_dead b
  WHERE b.fingerprint = c.fingerprint ORDER BY b.fingerprint DESC, b.id DESC LIMIT 1) s ON true"""

_SHOWN: Final = "c.jobs > 0 OR c.state <> 'unresolved'"
"""Without dead letters a cause is worth a line only if somebody has decided about it."""


LIST_CAUSES: Final = Statement(f"""
{_CAUSES}
SELECT * FROM (
  SELECT c.*, CASE :sort WHEN 'count' THEN c.jobs
    ELSE (extract(epoch FROM c.last_seen) * 1000000)::bigint END AS position
  FROM all_causes c WHERE ({_SHOWN})
    AND (:states::text[] IS NULL OR c.state = ANY (:states::text[]))
    AND (:job_type::text IS NULL OR c.job_type = :job_type)
    AND (:text::text IS NULL OR strpos(lower(concat_ws(' ', c.kind, c.title)), lower(:text)) > 0)) c
{_SAMPLE}
WHERE :after::bigint IS NULL OR (c.position, c.fingerprint) < (:after, :after_fingerprint::text)
ORDER BY c.position DESC, c.fingerprint DESC LIMIT :limit
""")


GET_CAUSE: Final = Statement(f"""
{_CAUSES}
SELECT c.*, 0::bigint AS position, s.* FROM all_causes c {_SAMPLE} WHERE c.fingerprint = :fingerprint
""")


UNRESOLVED_CAUSES: Final = Statement(f"""
{_CAUSES}
SELECT * FROM (
  SELECT c.*, c.last_seen >= :since AS is_fresh, 0::bigint AS position,
    count(*) OVER alike AS causes, (sum(c.jobs) OVER alike)::bigint AS all_jobs,
    row_number() OVER (PARTITION BY c.last_seen >= :since
      ORDER BY COALESCE(h.deaths, 0) DESC, c.jobs DESC, c.fingerprint) AS place
  FROM all_causes c
  LEFT JOIN (
    SELECT fingerprint, sum(deaths) AS deaths FROM finmind_jobs.cause_hours
    WHERE hour >= date_trunc('hour', :since::timestamptz, 'UTC') GROUP BY fingerprint
  ) h USING (fingerprint)
  WHERE c.jobs > 0 AND c.state = 'unresolved'
  WINDOW alike AS (PARTITION BY c.last_seen >= :since)) c
{_SAMPLE}
WHERE c.place <= :limit ORDER BY c.is_fresh DESC, c.place
""")
"""Those seen since, and those that were not: of each the ones that killed most jobs lately, and how many
causes and dead letters there are."""


COUNT_CAUSES: Final = Statement(f"""
{_CAUSES}
SELECT c.state, count(*) FROM all_causes c WHERE {_SHOWN} GROUP BY c.state
""")


CAUSE_TRENDS: Final = Statement("""
SELECT fingerprint, (extract(epoch FROM date_trunc('hour', now(), 'UTC') - hour) / 3600)::int, deaths
FROM finmind_jobs.cause_hours
WHERE fingerprint = ANY (:fingerprints::text[])
  AND hour > date_trunc('hour', now(), 'UTC') - make_interval(hours => :hours)
""")


KEEP_CAUSE: Final = Statement("""
INSERT INTO finmind_jobs.causes (fingerprint, job_type, jobs, deaths, first_seen, last_seen)
SELECT fingerprint, min(job_type), 0, 0, 'infinity', '-infinity'
FROM finmind_jobs.cause_deltas WHERE fingerprint = :fingerprint GROUP BY fingerprint
ON CONFLICT DO NOTHING
""")
"""A cause that the leader has not folded yet has a row of its own from now on."""


HOLD_CAUSE: Final = Statement("""
SELECT state, reason, ignored_until, ignored_deaths FROM finmind_jobs.causes
WHERE fingerprint = :fingerprint FOR UPDATE
""")


DECIDE_CAUSE: Final = Statement("""
UPDATE finmind_jobs.causes c SET
  state = :state, reason = :reason::text, changed_at = clock_timestamp(), changed_by = :by::text,
  regressed_at = NULL, ignored_until = :until::timestamptz,
  ignored_deaths = c.deaths + :deaths::bigint + COALESCE((
    SELECT sum(d.deaths) FROM finmind_jobs.cause_deltas d WHERE d.fingerprint = c.fingerprint), 0)
WHERE c.fingerprint = :fingerprint
""")


async def page(
    session: AsyncSession,
    filters: CauseFilters,
    *,
    sort: CauseSort,
    limit: int,
    after: tuple[int, str] | None,
) -> Sequence[Any]:
    """Rows of causes below a position, highest first."""
    states = None if filters.states is None else sorted(str(state) for state in filters.states)
    position, fingerprint = after or (None, None)
    listed = LIST_CAUSES.bind(
        sort=str(sort),
        states=states,
        job_type=filters.job_type,
        text=filters.text,
        after=position,
        after_fingerprint=fingerprint,
        limit=limit,
    )
    return await fetch(session, *listed)


async def one(session: AsyncSession, fingerprint: str) -> Any | None:
    """The row of one cause; None where it is not known."""
    rows = await fetch(session, *GET_CAUSE.bind(fingerprint=fingerprint))
    return rows[0] if rows else None


async def unresolved(session: AsyncSession, *, since: datetime, limit: int) -> Sequence[Any]:
    """Rows of causes with dead letters that nobody has dealt with: `limit` seen since, and `limit` others."""
    return await fetch(session, *UNRESOLVED_CAUSES.bind(since=since, limit=limit))


async def count(session: AsyncSession) -> dict[str, int]:
    """How many causes a list shows, by state."""
    return {row[0]: row[1] for row in await fetch(session, *COUNT_CAUSES.bind())}


async def trends(
    session: AsyncSession, fingerprints: Sequence[str], *, hours: int
) -> list[tuple[str, int, int]]:
    """Deaths of these causes: fingerprint, how many hours back, how many."""
    rows = await fetch(session, *CAUSE_TRENDS.bind(fingerprints=list(fingerprints), hours=hours))
    return [(row[0], row[1], row[2]) for row in rows]


async def hold(session: AsyncSession, fingerprint: str) -> Mapping[str, Any] | None:
    """What is decided about a cause, which nobody changes before the transaction ends; None: no such cause."""
    await fetch(session, *KEEP_CAUSE.bind(fingerprint=fingerprint))
    rows = await fetch(session, *HOLD_CAUSE.bind(fingerprint=fingerprint))
    names = ("state", "reason", "ignored_until", "ignored_deaths")
    return dict(zip(names, rows[0], strict=True)) if rows else None


async def decide(
    session: AsyncSession,
    fingerprint: str,
    state: CauseState,
    *,
    by: str,
    reason: str | None,
    until: datetime | None = None,
    deaths: int | None = None,
) -> None:
    """Set the state of a cause; ignored until a time, or for so many more deaths."""
    decided = DECIDE_CAUSE.bind(
        fingerprint=fingerprint, state=str(state), by=by, reason=reason, until=until, deaths=deaths
    )
    await fetch(session, *decided)
