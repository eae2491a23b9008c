"""One pass over the due jobs, without a worker: for a cron entry, a test, or an operator's button."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from service.db.engine import Database
from service.errors import Unavailable
from service.jobs import store
from service.jobs.core.lane import MAX_LANES, Lane
from service.jobs.core.outcomes import Outcome
from service.jobs.handlers.registry import Registry, registry
from service.jobs.maintenance import unserved
from service.jobs.worker.pipeline import SETTLE_GRACE_SECONDS, Pipeline
from service.jobs.worker.slots import Slots
from service.settings import Settings, load_settings

MAX_PASSES: Final = 4
"""Passes at once in a process: each holds up to five connections to the database."""

SLOT_WAIT_SECONDS: Final = 5.0
"""How long a pass waits for a slot where a worker of the process has them all."""


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
        """Count one recorded outcome; the fields have the names of the events."""
        if hasattr(self, outcome.event):
            setattr(self, outcome.event, getattr(self, outcome.event) + 1)


async def process_due_jobs(
    database: Database | str,
    limit: int = 50,
    *,
    settings: Settings | None = None,
    handlers: Registry = registry,
    slots: Slots | None = None,
) -> ProcessSummary:
    """Run up to `limit` due jobs now, concurrently, and wait until their outcomes are recorded.

    Safe beside workers: a job is claimed by one of them. A due job whose type neither this process
    nor any live worker serves becomes FAILED at once, unless a worker served it within
    `SERVED_TYPE_MEMORY_DAYS`. Jobs of paused queues are left alone.

    Args:
        database: where the jobs are: its URL, or the `Database` of a running service.
        limit: limit on the jobs to take.
        settings: concurrency, timeouts and so on; from the environment where None.
        handlers: the process's own where nothing is said.
        slots: those of a worker of this process, so that the two share its limits.

    Raises:
        ConfigurationError: the environment, or the URL, is refused.
        DATABASE_ERRORS: the database failed. What had been claimed is given back, or runs again
            when its leases end.
    """
    settings = settings or load_settings()
    if isinstance(database, str):
        opened = Database(database, settings)
        try:
            return await run_pass(Pipeline(opened, settings, handlers=handlers, slots=slots), limit)
        finally:
            await opened.close()
    return await run_pass(Pipeline(database, settings, handlers=handlers, slots=slots), limit)


async def run_pass(pipeline: Pipeline, limit: int, *, fail_unserved: bool = True) -> ProcessSummary:
    """One pass with a pipeline that has not started; it is stopped then.

    Args:
        pipeline: what claims and runs.
        limit: limit on the jobs to take.
        fail_unserved: whether due jobs whose type nobody serves become FAILED; see `process_due_jobs`.

    Raises:
        DATABASE_ERRORS: as there.
    """
    summary = ProcessSummary()
    pipeline.tally(summary.count)
    try:
        await pipeline.start()
        releases = -1
        while releases < pipeline.endings.releases and summary.processed < limit:
            releases = pipeline.endings.releases
            await _run_due(pipeline, summary, limit)
            await _release_children(pipeline)
        if fail_unserved and summary.processed < limit:
            await _fail_unserved(pipeline, summary, limit)
        while pipeline.executor.unfinished:
            await pipeline.executor.wait_for_one()
    finally:
        # Cancelled in the middle (the client left, the service stops): release what still runs.
        await asyncio.shield(pipeline.stop(grace_seconds=0.0, forget=True))
    return summary


class Passes:
    """Passes asked for over and over: a few at a time in a process, on one set of slots."""

    def __init__(self, database: Database, settings: Settings, *, slots: Slots | None) -> None:
        self._database = database
        self._settings = settings
        self._slots = slots or Slots.parse(
            settings.worker_concurrency,
            settings.worker_queues,
        )
        self._turns = asyncio.Semaphore(MAX_PASSES)

    async def run(self, limit: int) -> ProcessSummary:
        """One pass; see `process_due_jobs`.

        Raises:
            Unavailable: `MAX_PASSES` are under way, and none ends soon.
        """
        try:
            async with asyncio.timeout(SLOT_WAIT_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise Unavailable(
                f"{MAX_PASSES} passes over the due jobs are under way in this process: wait for "
                "the answer of one",
                retry_after_seconds=5,
            ) from None
        try:
            return await process_due_jobs(
                self._database, limit, settings=self._settings, slots=self._slots
            )
        finally:
            self._turns.release()


async def _run_due(pipeline: Pipeline, summary: ProcessSummary, limit: int) -> None:
    """Claim and run, from as many lanes as there are."""
    while summary.processed < limit:
        last = await pipeline.claimer.plan.list_lanes()
        await _run_due_of_listed(pipeline, summary, limit)
        if last:
            return


async def _release_children(pipeline: Pipeline) -> None:
    """Wait for what runs, and act on what others wait for."""
    while pipeline.executor.unfinished:
        await pipeline.executor.wait_for_one()
    await pipeline.settler.flushed(SETTLE_GRACE_SECONDS)
    await pipeline.endings.act_on_all()


async def _run_due_of_listed(pipeline: Pipeline, summary: ProcessSummary, limit: int) -> None:
    slots, executor = pipeline.slots, pipeline.executor
    give_up_at = time.monotonic() + SLOT_WAIT_SECONDS
    while summary.processed < limit:
        claimed, asked = await pipeline.claimer.claim_once(limit - summary.processed)
        summary.processed += claimed
        if claimed:
            give_up_at = time.monotonic() + SLOT_WAIT_SECONDS
        if pipeline.claimer.plan.walks_on:
            continue
        if asked and not claimed and not (executor.unfinished and slots.queues.at_limit):
            return
        if executor.unfinished:
            await executor.wait_for_one()
            give_up_at = time.monotonic() + SLOT_WAIT_SECONDS
        elif not asked:
            # A worker of this process has every slot, and takes those that become free as well.
            await slots.wait_for(1, give_up_at - time.monotonic())
            if time.monotonic() >= give_up_at:
                return


async def _fail_unserved(pipeline: Pipeline, summary: ProcessSummary, limit: int) -> None:
    after: Lane | None = None
    served = await unserved.find_served(
        pipeline.link, pipeline.settings, own_types=pipeline.handlers.job_types(), grace_seconds=0.0
    )
    paused = await store.queues.paused(pipeline.link)
    while (left := limit - summary.processed) > 0:
        heads = await store.lanes.listed(pipeline.link, limit=MAX_LANES, after=after)
        failed = await unserved.fail_unserved(
            pipeline.link,
            [head for head in heads if head.lane.queue not in paused],
            served,
            grace_seconds=0.0,
            max_errors=pipeline.settings.max_error_entries,
            limit=left,
        )
        summary.processed += len(failed)
        summary.failed += len(failed)
        if len(heads) < MAX_LANES:
            return
        after = heads[-1].lane
