"""One pass over the due jobs, without a worker."""

import asyncio
from typing import Any

import pytest

from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.jobs import (
    Backoff,
    NewJob,
    PermanentError,
    ProcessSummary,
    Registry,
    Snooze,
    enqueue_batch,
    process_due_jobs,
)
from tests.jobs.conftest import Put, Quick
from tests.jobs.proxy import Proxy
from tests.jobs.waiting import occurs


async def test_a_pass_counts_what_became_of_the_jobs(
    database: Database, handlers: Registry, sql: Any, quick: Quick
) -> None:
    @handlers.handler("mail", backoff=Backoff(base_seconds=60, jitter=0))
    async def handle(payload: Any) -> None:
        match payload:
            case "retry":
                raise ValueError
            case "fail":
                raise PermanentError
            case "snooze":
                raise Snooze(60)

    wanted = ["ok"] * 4 + ["retry"] * 3 + ["fail"] * 2 + ["snooze"]
    await enqueue_batch(sql, [NewJob("mail", name) for name in wanted])
    await enqueue_batch(sql, [NewJob("mail", "retry", max_retries=0), NewJob("nobodys")])
    summary = await process_due_jobs(database, settings=quick(), handlers=handlers)
    assert summary == ProcessSummary(
        processed=12, succeeded=4, retried=3, failed=3, dead_lettered=1
    )
    states = await sql.fetch("SELECT status, count(*) FROM background_jobs GROUP BY status")
    assert dict(states) == {"SUCCESS": 4, "PENDING": 4, "FAILED": 3, "DEAD_LETTER": 1}


async def test_a_pass_takes_no_more_than_its_limit(
    database: Database, handlers: Registry, sql: Any, quick: Quick
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None: ...

    await enqueue_batch(sql, [NewJob("mail") for _ in range(30)])
    settings = quick(worker_concurrency=4)
    summary = await process_due_jobs(database, 11, settings=settings, handlers=handlers)
    assert (summary.processed, summary.succeeded) == (11, 11)
    assert await sql.fetchval("SELECT count(*) FROM jobs_live") == 19


async def test_a_pass_leaves_jobs_that_are_not_due(
    database: Database, handlers: Registry, put: Put, quick: Quick
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None: ...

    await put("mail", delay_seconds=60)
    assert await process_due_jobs(database, settings=quick(), handlers=handlers) == ProcessSummary()


async def test_the_jobs_of_a_pass_run_together(
    database: Database, handlers: Registry, sql: Any, quick: Quick
) -> None:
    together = asyncio.Barrier(5)

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        async with asyncio.timeout(10):
            await together.wait()

    await enqueue_batch(sql, [NewJob("mail") for _ in range(5)])
    summary = await process_due_jobs(database, settings=quick(), handlers=handlers)
    assert summary.succeeded == 5


async def test_passes_at_once_run_each_job_once(
    database: Database, handlers: Registry, sql: Any, quick: Quick
) -> None:
    seen = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        seen.append(payload)

    await enqueue_batch(sql, [NewJob("mail", n) for n in range(60)])
    passes = (process_due_jobs(database, 60, settings=quick(), handlers=handlers) for _ in range(3))
    summaries = await asyncio.gather(*passes)
    assert sum(summary.succeeded for summary in summaries) == 60
    assert sorted(seen) == list(range(60))


async def test_a_pass_that_is_cancelled_gives_its_jobs_back(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick
) -> None:
    running = asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        running.set()
        await asyncio.get_running_loop().create_future()

    job_id = await put("mail")
    task = asyncio.create_task(process_due_jobs(database, settings=quick(), handlers=handlers))
    await occurs(running)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    row = await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)
    assert (row["status"], row["attempts"], row["lease_until"]) == ("PENDING", 0, None)


async def test_a_pass_without_a_database_says_so(
    proxy: Proxy, proxied: Database, handlers: Registry, quick: Quick
) -> None:
    await proxy.cut()
    with pytest.raises(DATABASE_ERRORS):
        await process_due_jobs(proxied, settings=quick(), handlers=handlers)
