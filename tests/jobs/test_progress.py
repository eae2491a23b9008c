"""Progress is told when it can be, and fails no attempt when it cannot."""

import asyncio
from typing import Any

from prometheus_client import REGISTRY

from service.db.engine import Database
from service.jobs import JobContext, PermanentError, Registry
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.proxy import Proxy
from tests.jobs.waiting import occurs, until_ended


def failures() -> float:
    return (
        REGISTRY.get_sample_value("finmind_database_errors_total", {"operation": "progress"}) or 0.0
    )


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
