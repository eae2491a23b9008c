"""A queue with a limit goes on the moment it may: no pause between two of its jobs."""

import asyncio
from typing import Any

from service.db.engine import Database
from service.jobs import NewJob, Registry, enqueue_batch, process_due_jobs
from service.jobs.worker.claimer import GATHER_SECONDS
from tests.jobs.conftest import Quick, StartWorker
from tests.jobs.waiting import until_ended

SELDOM: dict[str, Any] = {"poll_min_seconds": 10, "poll_max_seconds": 60}
"""One pause would be longer than any test here may take."""


def one_at_a_time(handlers: Registry) -> list[Any]:
    """A handler that outlasts the claimer's look for more, and what it was given."""
    seen: list[Any] = []
    running = 0

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        nonlocal running
        running += 1
        assert running == 1
        seen.append(payload)
        await asyncio.sleep(5 * GATHER_SECONDS)
        running -= 1

    return seen


async def test_the_next_job_of_a_limited_queue_starts_when_the_slot_is_free(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    seen = one_at_a_time(handlers)
    made = await enqueue_batch(sql, [NewJob("mail", n, queue="q") for n in range(10)])
    await start_worker(worker_queues="q:1,*", **SELDOM)
    for job in made:
        assert (await until_ended(sql, job.id))["attempts"] == 1
    assert seen == list(range(10))


async def test_a_pass_in_the_workers_process_does_not_take_its_wake_up_away(
    database: Database, handlers: Registry, sql: Any, quick: Quick, start_worker: StartWorker
) -> None:
    seen = one_at_a_time(handlers)
    (before,) = await enqueue_batch(sql, [NewJob("mail", -1, queue="q")])
    worker = await start_worker(worker_queues="q:1,*", **SELDOM)
    await until_ended(sql, before.id)
    settings = quick(worker_queues="q:1,*")
    await process_due_jobs(database, settings=settings, handlers=handlers, slots=worker.slots)
    made = await enqueue_batch(sql, [NewJob("mail", n, queue="q") for n in range(10)])
    worker._pipeline.claimer.wake([])
    for job in made:
        await until_ended(sql, job.id)
    assert seen == list(range(-1, 10))


async def test_a_pass_works_a_limited_queue_off_beside_others(
    database: Database, handlers: Registry, sql: Any, quick: Quick
) -> None:
    seen = one_at_a_time(handlers)
    handlers.handler("quick")(lambda _: None)
    jobs = [NewJob("mail", n, queue="q") for n in range(8)]
    await enqueue_batch(sql, [*jobs, *(NewJob("quick", queue="r") for _ in range(8))])
    settings = quick(worker_queues="q:1,*")
    summary = await process_due_jobs(database, settings=settings, handlers=handlers)
    assert (summary.processed, summary.succeeded) == (16, 16)
    assert seen == list(range(8))
