"""A worker that claims and then dies: what it leaves behind, without a process to kill."""

from service.db.engine import Database
from service.jobs import store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import DEFAULT_PRIORITY, DEFAULT_QUEUE
from service.jobs.core.lane import LANE_START, Lane, LaneRequest


async def claim(
    database: Database, job_types: list[str], *, limit: int = 100, lease_seconds: float = 30.0
) -> list[ClaimedJob]:
    """Claim as a worker does, and do nothing more; a lease of 0 s has run out already."""
    link = database.link()
    try:
        worker_id, _ = await store.workers.register(
            link, name="gone", queues=["*"], job_types=job_types, concurrency=limit, version="1"
        )
        return await store.claim.take(
            link,
            [LaneRequest(Lane(DEFAULT_QUEUE, DEFAULT_PRIORITY), LANE_START, limit)],
            job_types,
            limit=limit,
            lease_seconds=lease_seconds,
            worker_id=worker_id,
            max_errors=20,
        )
    finally:
        await link.close()
