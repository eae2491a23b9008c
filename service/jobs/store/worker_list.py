"""List workers and what they run, for operators."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import fetch
from service.jobs.core.lane import LaneHead
from service.jobs.store.fragments import POSITION
from service.jobs.store.lanes import head_columns
from service.jobs.store.statement import Statement

_WORKERS: Final = Statement("""
SELECT id, name, version, queues, job_types, concurrency, started_at, seen_at, stopped_at,
  stopped_at IS NULL AND seen_at > now() - make_interval(secs => :alive_seconds) AS is_live,
  extract(epoch FROM COALESCE(stopped_at, now()) - started_at)::float8,
  extract(epoch FROM now() - seen_at)::float8, owner, drain_asked_at
FROM finmind_jobs.job_workers
ORDER BY is_live DESC, stopped_at IS NOT NULL, seen_at DESC, id DESC LIMIT :limit
""")
"""Live ones first, then those that were lost, then those that stopped."""

_RUNNING: Final = Statement(f"""
SELECT j.worker_id, j.id, j.job_type, j.queue, extract(epoch FROM now() - j.started_at)::float8 AS seconds
FROM unnest(:queues::text[], :priorities::smallint[], :first_at::float8[]) AS l(queue, priority, first_at)
CROSS JOIN LATERAL (
  SELECT b.worker_id, b.id, b.job_type, b.queue, b.status, b.started_at, b.lease_until
  FROM finmind_jobs.jobs_live b
  WHERE b.queue = l.queue AND b.priority = l.priority AND b.next_run_at <= now()
    AND b.next_run_at >= to_timestamp(l.first_at)
  ORDER BY {POSITION} LIMIT :cap) j
WHERE j.status = 'RUNNING' AND j.lease_until > now() AND j.worker_id IS NOT NULL
ORDER BY seconds DESC, j.id LIMIT :limit
""")
"""The running jobs, the longest first, among the first `:cap` due jobs of each lane: what runs became
due before what waits."""


class WorkerRow(NamedTuple):
    """One worker, as it stands in `job_workers`."""

    id: int
    name: str
    version: str | None
    queues: list[str]
    job_types: list[str]
    concurrency: int
    started_at: datetime
    seen_at: datetime
    stopped_at: datetime | None
    is_live: bool
    up_seconds: float
    seen_seconds: float
    """How long ago it was seen last."""
    owner: str | None
    """Who claims over HTTP under this name; None: a process of the service."""
    drain_asked_at: datetime | None


class RunningRow(NamedTuple):
    """One running job."""

    worker_id: int
    id: int
    job_type: str
    queue: str
    seconds: float
    """How long it has been running."""


async def workers(session: AsyncSession, *, alive_seconds: float, limit: int) -> list[WorkerRow]:
    """The workers that are kept, live ones first."""
    rows = await fetch(session, *_WORKERS.bind(alive_seconds=alive_seconds, limit=limit))
    return [WorkerRow(*row) for row in rows]


async def running(
    session: AsyncSession, lanes: Sequence[LaneHead], *, cap: int, limit: int
) -> list[RunningRow]:
    """What runs in these lanes, the longest first; of each lane the first `cap` jobs are looked at."""
    values = head_columns(lanes) | {"cap": cap, "limit": limit}
    return [RunningRow(*row) for row in await fetch(session, *_RUNNING.bind(**values))]
