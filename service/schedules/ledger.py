"""Every query on `schedule_ticks`. Nothing here commits: the transaction is the caller's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import fetch
from service.jobs.core.job import JobId
from service.jobs.store.statement import Statement
from service.schedules.model import Schedule, ScheduleId, Tick, TickOutcome

_LIVE: Final = Statement("""
SELECT t.schedule_id, l.id FROM finmind_jobs.schedule_ticks t
JOIN finmind_jobs.jobs_live l ON l.id = t.job_id
WHERE t.schedule_id = ANY (:ids::bigint[]) AND t.job_id IS NOT NULL AND t.run_status IS NULL
ORDER BY l.id""")
_NOTE: Final = Statement("""
INSERT INTO finmind_jobs.schedule_ticks
  (schedule_id, schedule, planned_at, until, ticks, outcome, reason, job_id)
SELECT * FROM unnest(:ids::bigint[], :names::text[], :planned::timestamptz[], :untils::timestamptz[], :ticks::int[],
  :outcomes::text[], :reasons::text[], :job_ids::bigint[])""")
_END_RUNS: Final = Statement("""
WITH ended AS (
  SELECT t.id, t.job_id FROM finmind_jobs.schedule_ticks t
  WHERE t.job_id IS NOT NULL AND t.run_status IS NULL
    AND NOT EXISTS (SELECT FROM finmind_jobs.jobs_live l WHERE l.id = t.job_id)
  LIMIT CASE WHEN pg_try_advisory_xact_lock('finmind_jobs.schedule_ticks'::regclass::oid::bigint)
    THEN :limit ELSE 0 END),
found AS (
  SELECT e.id, coalesce(j.status, 'GONE') AS status, j.finished_at
  FROM ended e LEFT JOIN LATERAL (
    SELECT b.status, b.finished_at FROM finmind_jobs.background_jobs b WHERE b.id = e.job_id LIMIT 1
  ) j ON true)
UPDATE finmind_jobs.schedule_ticks t SET run_status = f.status FROM found f WHERE t.id = f.id
RETURNING t.schedule_id, t.outcome, t.run_status, f.finished_at, t.job_id""")
_TICKS: Final = Statement("""
SELECT id, planned_at, until, ticks, outcome, reason, decided_at, job_id, run_status
FROM finmind_jobs.schedule_ticks WHERE schedule_id = :id AND id < :before
AND (:outcome::text IS NULL OR outcome = :outcome) ORDER BY id DESC LIMIT :limit""")


_LAST_OF_EACH: Final = Statement("""
SELECT t.* FROM unnest(:ids::bigint[]) AS s (id) CROSS JOIN LATERAL (
  SELECT schedule_id, id, planned_at, until, ticks, outcome, reason, decided_at, job_id, run_status
  FROM finmind_jobs.schedule_ticks WHERE schedule_id = s.id ORDER BY id DESC LIMIT :limit) t
ORDER BY t.id DESC""")


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the ledger."""

    schedule: Schedule
    planned_at: datetime
    outcome: TickOutcome
    reason: str | None = None
    job_id: JobId | None = None
    until: datetime | None = None
    ticks: int = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """A run whose job has ended, or is gone."""

    schedule_id: ScheduleId
    outcome: TickOutcome
    run_status: str
    finished_at: datetime | None
    job_id: JobId


async def live_runs(
    session: AsyncSession, ids: Iterable[ScheduleId]
) -> dict[ScheduleId, list[JobId]]:
    """The jobs of each schedule that have not ended, oldest first."""
    found: dict[ScheduleId, list[JobId]] = {one: [] for one in ids}
    if found:
        for schedule_id, job_id in await fetch(session, *_LIVE.bind(ids=list(found))):
            found[schedule_id].append(job_id)
    return found


async def note(session: AsyncSession, notes: Sequence[Note]) -> None:
    """Write lines of the ledger."""
    if not notes:
        return
    await fetch(
        session,
        *_NOTE.bind(
            ids=[one.schedule.id for one in notes],
            names=[one.schedule.name for one in notes],
            planned=[one.planned_at for one in notes],
            untils=[one.until for one in notes],
            ticks=[one.ticks for one in notes],
            outcomes=[one.outcome.value for one in notes],
            reasons=[None if one.reason is None else one.reason[:500] for one in notes],
            job_ids=[one.job_id for one in notes],
        ),
    )


async def end_runs(session: AsyncSession, limit: int) -> list[Ended]:
    """Note how runs ended of which that is not known; none while another transaction does."""
    rows = await fetch(session, *_END_RUNS.bind(limit=limit))
    return [
        Ended(
            ScheduleId(row.schedule_id), TickOutcome(row.outcome), row.run_status, row.finished_at,
            JobId(row.job_id),
        )
        for row in rows
    ]  # fmt: skip


async def ticks(
    session: AsyncSession,
    schedule_id: ScheduleId,
    *,
    limit: int,
    before: int,
    outcome: TickOutcome | None = None,
) -> list[Tick]:
    """The ledger of a schedule below an id, newest first."""
    statement = _TICKS.bind(
        id=schedule_id, limit=limit, before=before, outcome=outcome and outcome.value
    )
    return [tick_of(row) for row in await fetch(session, *statement)]


async def last_of_each(
    session: AsyncSession, ids: Sequence[ScheduleId], *, limit: int
) -> dict[ScheduleId, list[Tick]]:
    """The newest entries of each of these schedules, newest first."""
    found: dict[ScheduleId, list[Tick]] = {}
    for row in await fetch(session, *_LAST_OF_EACH.bind(ids=list(ids), limit=limit)):
        found.setdefault(ScheduleId(row.schedule_id), []).append(tick_of(row))
    return found


def tick_of(row: Any) -> Tick:
    """A row of the ledger."""
    return Tick(
        id=row.id,
        planned_at=row.planned_at,
        until=row.until,
        ticks=row.ticks,
        outcome=TickOutcome(row.outcome),
        reason=row.reason,
        decided_at=row.decided_at,
        job_id=None if row.job_id is None else JobId(row.job_id),
        run_status=row.run_status,
    )
