"""Read which tick of a schedule a job is for."""

from typing import Final

from service.jobs.core.job import JobId
from service.jobs.core.schedule_tick import ScheduleTick
from service.jobs.store.enqueue import Fetch
from service.jobs.store.statement import Statement

TICK_OF: Final = Statement("""
SELECT schedule, planned_at, outcome = 'backfilled' FROM finmind_jobs.schedule_ticks
WHERE job_id = :job_id LIMIT 1
""")


async def tick_of(run: Fetch, job_id: JobId) -> ScheduleTick | None:
    """The tick that a job is for; None: it is for none, or the ledger has dropped it."""
    rows = await run(*TICK_OF.bind(job_id=job_id))
    return ScheduleTick(*rows[0]) if rows else None
