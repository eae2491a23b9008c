"""Progress of handlers that are plain functions, and what a mix-up of the two says."""

import asyncio
from typing import Any

from service.jobs import JobContext, PermanentError, Registry
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.waiting import until_ended


async def test_a_plain_function_tells_its_progress_without_await(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    answers: list[bool] = []

    @handlers.handler("mail")
    def handle(payload: Any, ctx: JobContext) -> None:
        answers.append(ctx.progress_sync(0.5, "half way"))
        raise PermanentError("what succeeded keeps no progress")

    job_id = await put("mail")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], answers) == ("FAILED", [True])
    assert job["progress"] == {"fraction": 0.5, "message": "half way"}


async def test_a_thread_of_a_coroutine_may_tell_progress_too(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any, ctx: JobContext) -> bool:
        # What succeeded keeps no progress.
        raise PermanentError(str(await asyncio.to_thread(ctx.progress_sync, 1.0)))

    job_id = await put("mail")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert job["last_error"] == "PermanentError: True"
    assert job["progress"]["fraction"] == 1.0


async def test_the_wrong_progress_call_names_the_right_one(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("plain", max_retries=0)
    def plain(payload: Any, ctx: JobContext) -> None:
        ctx.progress(0.5)  # type: ignore[unused-coroutine]  # the mistake

    @handlers.handler("async", max_retries=0)
    async def coroutine(payload: Any, ctx: JobContext) -> None:
        ctx.progress_sync(0.5)

    first, second = await put("plain"), await put("async")
    await start_worker()
    for job_id, words in ((first, "ctx.progress_sync("), (second, "await ctx.progress")):
        job = await until_ended(sql, job_id)
        assert job["status"] == "DEAD_LETTER"
        assert words in job["last_error"]
