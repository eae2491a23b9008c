"""Read what operators should look at first: failures without a cause, lost workers, unserved types."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import fetch
from service.jobs.core.lane import MAX_LANES, Lane, LaneHead
from service.jobs.store import queues
from service.jobs.store.lanes import LANES, head_columns
from service.jobs.store.served_types import WAITING_FOR_WORKER

MAX_UNNAMED: Final = 10_000
"""Dead letters without a fingerprint that are looked at, the newest; more are told as at least so many."""

MAX_WORKERS: Final = 1000

# By an index of those without a fingerprint: the leader names them within seconds.
_UNNAMED: Final = text("""
    WITH latest AS MATERIALIZED (
      SELECT job_type, finished_at, left(last_error, 300) AS last_error FROM finmind_jobs.jobs_dead
      WHERE fingerprint IS NULL ORDER BY id DESC LIMIT :cap)
    SELECT job_type, count(*) AS jobs, min(finished_at) AS first_at,
      (array_agg(last_error ORDER BY finished_at DESC))[1] AS last_error,
      (SELECT count(*) FROM latest) < :cap AS exact
    FROM latest WHERE finished_at >= :since GROUP BY job_type ORDER BY jobs DESC, job_type""")

_WORKERS: Final = text("""
    SELECT name, started_at, seen_at, concurrency, job_types,
      seen_at > now() - make_interval(secs => :alive_seconds) AS is_alive
    FROM finmind_jobs.job_workers WHERE stopped_at IS NULL
    ORDER BY seen_at DESC LIMIT :limit""")

_SERVED_AT: Final = text("SELECT job_type, served_at FROM finmind_jobs.served_types")


async def unnamed_since(session: AsyncSession, since: datetime) -> Sequence[Row[Any]]:
    """Jobs that became DEAD_LETTER or FAILED and have no fingerprint yet, by type."""
    return (await session.execute(_UNNAMED, {"since": since, "cap": MAX_UNNAMED})).all()


async def workers(session: AsyncSession, *, alive_seconds: float) -> Sequence[Row[Any]]:
    """Workers that have not stopped in good order, and whether each was seen lately."""
    values = {"alive_seconds": alive_seconds, "limit": MAX_WORKERS}
    return (await session.execute(_WORKERS, values)).all()


async def served_at(session: AsyncSession) -> dict[str, datetime]:
    """When each type was served last, to the hour."""
    return {row.job_type: row.served_at for row in await session.execute(_SERVED_AT)}


async def waiting(
    session: AsyncSession, job_types: Collection[str], *, due_seconds: float, walk: int
) -> dict[str, int]:
    """Jobs of these types that have been due so long, among the first `walk` of each lane.

    Those of paused queues wait for no worker.
    """
    paused = await queues.pauses(session)
    rows = await fetch(session, *LANES.bind(limit=MAX_LANES, after_queue="", after_priority=-1))
    heads = [LaneHead(Lane(row[0], row[1]), *row[2:]) for row in rows if row[0] not in paused]
    if not heads:
        return {}
    found = await fetch(
        session,
        *WAITING_FOR_WORKER.bind(
            **head_columns(heads), job_types=sorted(job_types), due_seconds=due_seconds, walk=walk
        ),
    )
    return {row[0]: row[1] for row in found}
