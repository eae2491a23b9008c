"""Progress is told when it can be, and fails no attempt when it cannot."""

import asyncio
from typing import Any

import pytest
from prometheus_client import REGISTRY

from service.db.engine import Database
from service.jobs import JobContext, NewJob, PermanentError, Registry, enqueue_batch
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.proxy import Proxy
from tests.jobs.waiting import occurs, until_ended


def failures() -> float:
    return (
        REGISTRY.get_sample_value("finmind_database_errors_total", {"operation": "progress"}) or 0.0
    )


@pytest.mark.whole
async def test_a_database_that_is_away_is_counted_and_the_attempt_goes_on(
    proxy: Proxy, proxied: Database, handlers: Registry, put: Put, sql: Any,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    answers = []
    before = failures()

    @handlers.handler("mail", max_retries=0)
    async def handle(payload: Any, ctx: JobContext) -> None:
        answers.append(await ctx.progress(0.1))
        await proxy.cut()
        answers.append(await ctx.progress(0.5))
        await proxy.start()
        raise PermanentError("over")

    job_id = await put("mail")
    await start_worker(database=proxied)
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"]) == ("FAILED", 1)
    assert answers == [True, True]
    assert job["progress"]["fraction"] == 0.1
    assert failures() > before


async def test_progress_is_written_although_its_connection_was_cut(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()
    answers = []
    before = failures()

    @handlers.handler("mail", max_retries=0)
    async def handle(payload: Any, ctx: JobContext) -> None:
        await ctx.progress(0.1)
        running.set()
        await go_on.wait()
        answers.append(await ctx.progress(0.5, "half"))
        raise PermanentError("over")

    job_id = await put("mail")
    await start_worker()
    await occurs(running)
    cut = await sql.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query LIKE '%SET progress%' AND pid <> pg_backend_pid()"
        " AND datname = current_database()"
    )
    assert len(cut) == 1
    go_on.set()
    job = await until_ended(sql, job_id)
    assert (job["status"], answers) == ("FAILED", [True])
    assert job["progress"] == {"fraction": 0.5, "message": "half"}
    # asyncpg may notice the cut before the statement; then there is no error to count.
    assert failures() - before <= 1


async def test_the_progress_of_many_jobs_is_written_with_few_commits(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    answers: list[bool] = []
    running, told, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    started = 0

    @handlers.handler("mail")
    async def handle(payload: Any, ctx: JobContext) -> None:
        nonlocal started
        started += 1
        if started == 100:
            running.set()
        await running.wait()
        answers.append(await ctx.progress(payload / 100))
        if len(answers) == 100:
            told.set()
        await go_on.wait()

    jobs = await enqueue_batch(sql, [NewJob("mail", n) for n in range(100)])
    await start_worker()
    await occurs(told)
    rows = await sql.fetch("SELECT progress, xmin::text AS commit FROM jobs_live ORDER BY id")
    go_on.set()
    assert answers == [True] * 100
    assert [row["progress"]["fraction"] for row in rows] == [n / 100 for n in range(len(jobs))]
    assert len({row["commit"] for row in rows}) <= 3


async def test_of_several_values_that_wait_the_newest_is_written(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any, ctx: JobContext) -> None:
        answers = await asyncio.gather(*(ctx.progress(n / 10) for n in range(10)))
        raise PermanentError(str(set(answers)))  # what succeeded keeps no progress

    job_id = await put("mail")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert job["last_error"] == "PermanentError: {True}"
    assert job["progress"]["fraction"] == 0.9
