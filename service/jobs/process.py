"""One pass over the due jobs, without a worker: for a cron entry, a test, or an operator's button."""

import asyncio
from dataclasses import dataclass

from service.db.engine import Database
from service.jobs.maintenance import fail_unserved
from service.jobs.model import JobStatus
from service.jobs.outcomes import Ended, Outcome, Retried, Succeeded
from service.jobs.registry import Registry, registry
from service.jobs.worker import Engine
from service.settings import Settings


@dataclass(slots=True)
class ProcessSummary:
    """What one pass did.

    `processed` counts every job that it took: those snoozed, or released because the pass was
    cancelled, as well. `failed` counts those that became FAILED, unserved types included.
    """

    processed: int = 0
    succeeded: int = 0
    retried: int = 0
    failed: int = 0
    dead_lettered: int = 0

    def count(self, outcome: Outcome) -> None:
        """Take one recorded outcome into account."""
        match outcome:
            case Succeeded():
                self.succeeded += 1
            case Retried():
                self.retried += 1
            case Ended(status=JobStatus.DEAD_LETTER):
                self.dead_lettered += 1
            case Ended():
                self.failed += 1


async def process_due_jobs(
    database: Database,
    limit: int = 50,
    *,
    settings: Settings | None = None,
    handlers: Registry = registry,
) -> ProcessSummary:
    """Run up to `limit` due jobs now, concurrently, and wait until their outcomes are recorded.

    Safe beside workers: a job is claimed by one of them. A due job whose type neither this process
    nor any live worker serves becomes FAILED at once.

    Raises:
        DATABASE_ERRORS: the database failed before anything was claimed.
    """
    engine = Engine(database, settings or Settings(), handlers=handlers)
    summary = ProcessSummary()
    engine.tally(summary.count)
    await engine.start()
    try:
        await engine.claimer.list_lanes()
        while summary.processed < limit:
            claimed, asked = await engine.claimer.claim_once(limit - summary.processed)
            summary.processed += claimed
            await engine.runner.wait_for_one()
            # With every slot taken nothing was asked for: that says nothing of the table.
            if asked and not claimed:
                break
        left = limit - summary.processed
        if left > 0:
            unserved = await fail_unserved(
                engine.link,
                own_types=handlers.job_types(),
                grace_seconds=0.0,
                lease_seconds=engine.settings.lease_seconds,
                max_errors=engine.settings.max_error_entries,
                limit=left,
            )
            summary.processed += len(unserved)
            summary.failed += len(unserved)
        while engine.runner.runs:
            await engine.runner.wait_for_one()
    finally:
        # Cancelled in the middle (the client left, the service stops): release what still runs.
        await asyncio.shield(engine.stop(grace_seconds=0.0))
    return summary
