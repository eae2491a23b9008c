"""A deploy burns no attempt: what still runs is given back, and keeps its place."""

import asyncio
from typing import Any

import pytest

from service.jobs import (
    JobContext,
    NewJob,
    PermanentError,
    Registry,
    RetryAfter,
    Snooze,
    enqueue_batch,
)
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.waiting import occurs, until_ended


async def row(sql: Any, job_id: int) -> Any:
    return await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)


def endless(handlers: Registry) -> asyncio.Event:
    """A handler that goes on until it is cancelled; the event tells that it has begun."""
    running = asyncio.Event()

    @handlers.handler("mail")
    async def handle(_: Any) -> None:
        running.set()
        await asyncio.get_running_loop().create_future()

    return running


async def test_a_running_handler_may_finish_within_the_grace(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> str:
        running.set()
        await go_on.wait()
        return "finished"

    job_id = await put("mail")
    worker = await start_worker(shutdown_grace_seconds=20)
    await occurs(running)
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)
    go_on.set()
    await stopping
    job = await row(sql, job_id)
    assert (job["status"], job["result"]) == ("SUCCESS", "finished")


async def test_a_job_still_running_after_the_grace_is_given_back_uncounted(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    running, cancelled = asyncio.Event(), asyncio.Event()
    contexts: list[JobContext] = []

    @handlers.handler("mail")
    async def handle(payload: Any, ctx: JobContext) -> None:
        contexts.append(ctx)
        running.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    (enqueued,) = await enqueue_batch(sql, [NewJob("mail")])
    worker = await start_worker(shutdown_grace_seconds=0.05)
    await occurs(running)
    await worker.stop()
    assert cancelled.is_set()
    assert contexts[0].cancelled
    job = await row(sql, enqueued.id)
    assert (job["status"], job["attempts"], job["errors"]) == ("PENDING", 0, None)
    assert job["next_run_at"] == enqueued.next_run_at
    assert (job["lease_until"], job["lost_leases"], job["last_error"]) == (None, 0, None)


async def test_a_stop_does_not_wait_for_a_free_slot(
    handlers: Registry, put: Put, start_worker: StartWorker
) -> None:
    running = endless(handlers)
    await put("mail")
    worker = await start_worker(worker_concurrency=1, poll_max_seconds=60, shutdown_grace_seconds=0)
    await occurs(running)
    await asyncio.sleep(0.05)  # the claimer has found every slot taken
    async with asyncio.timeout(5):
        await worker.stop()


async def test_the_grace_begins_when_claiming_stops(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    running = endless(handlers)
    job_id = await put("mail")
    worker = await start_worker(shutdown_grace_seconds=60)
    await occurs(running)
    worker.stop_claiming()
    assert worker._stop_began is not None
    worker._stop_began -= 60  # HTTP took so long to drain
    async with asyncio.timeout(20):
        await worker.stop()
    assert (await row(sql, job_id))["status"] == "PENDING"


async def test_a_worker_is_alive_while_every_one_of_its_loops_is(start_worker: StartWorker) -> None:
    worker = await start_worker()
    loops = (worker._claims, *worker._others, *worker._pipeline.loops)
    names = {"claimer", "lanes", "maintenance", "listener", "settler", "requeuer", "heartbeat"}
    names |= {"progress", "logs", "steps", "cancels", "endings", "unique_turns"}
    assert {loop.name for loop in loops} == names
    seen = [worker.alive]
    for loop in loops:
        await loop.stop()
        seen.append(worker.alive)
        loop.start()
        seen.append(worker.alive)
    assert seen == [True, *[False, True] * len(loops)]


async def test_a_job_given_back_is_run_by_the_next_worker_as_its_first_attempt(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    running, second = asyncio.Event(), asyncio.Event()

    @handlers.handler("mail", max_retries=0)
    async def handle(payload: Any) -> None:
        running.set()
        if not second.is_set():
            await asyncio.get_running_loop().create_future()

    job_id = await put("mail")
    worker = await start_worker(shutdown_grace_seconds=0)
    await occurs(running)
    await worker.stop()
    second.set()
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"]) == ("SUCCESS", 1)


@pytest.mark.whole
async def test_a_handler_that_does_not_stop_is_given_back_all_the_same(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    running, release = asyncio.Event(), asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        running.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    job_id = await put("mail")
    worker = await start_worker(shutdown_grace_seconds=0)
    await occurs(running)
    async with asyncio.timeout(10):
        await worker.stop()
    job = await row(sql, job_id)
    assert (job["status"], job["attempts"]) == ("PENDING", 0)
    release.set()


async def test_nothing_is_claimed_once_the_stop_has_begun(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None: ...

    worker = await start_worker()
    await until_ended(sql, await put("mail"))
    worker.stop_claiming()
    job_id = await put("mail")
    await worker.stop()
    assert (await row(sql, job_id))["attempts"] == 0
    assert not worker.alive


async def test_a_stop_in_the_middle_of_a_backlog_leaves_nothing_running(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    begun = asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        begun.set()

    await enqueue_batch(sql, [NewJob("mail") for _ in range(3_000)])
    worker = await start_worker(shutdown_grace_seconds=0)
    await occurs(begun)
    await worker.stop()
    states = dict(await sql.fetch("SELECT status, count(*) FROM background_jobs GROUP BY status"))
    assert set(states) <= {"PENDING", "SUCCESS"}
    assert sum(states.values()) == 3_000
    burnt = "SELECT count(*) FROM jobs_live WHERE attempts > 0 OR lease_until IS NOT NULL"
    assert await sql.fetchval(burnt) == 0


async def test_a_worker_that_stopped_says_so(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    worker = await start_worker()
    stopped = "SELECT stopped_at IS NOT NULL FROM job_workers WHERE name = $1"
    assert await sql.fetchval(stopped, worker.name) is False
    await worker.stop()
    assert await sql.fetchval(stopped, worker.name) is True


async def interrupted(running: asyncio.Event, error: BaseException) -> None:
    """What a handler does whose driver makes an error of its own of a cancellation."""
    running.set()
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        raise error from None


@pytest.mark.parametrize("error", [OSError("cut"), RetryAfter(60)], ids=lambda e: type(e).__name__)
async def test_an_attempt_interrupted_by_a_stop_does_not_count(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, error: Exception
) -> None:
    running = asyncio.Event()

    @handlers.handler("mail", max_retries=0)
    async def handle(payload: Any) -> None:
        await interrupted(running, error)

    job_id = await put("mail")
    worker = await start_worker(shutdown_grace_seconds=0)
    await occurs(running)
    await worker.stop()
    job = await row(sql, job_id)
    assert (job["status"], job["attempts"], job["errors"]) == ("PENDING", 0, None)


async def test_a_handler_that_knows_at_a_stop_that_no_retry_helps_is_believed(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    running = asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        await interrupted(running, PermanentError("no use"))

    job_id = await put("mail")
    worker = await start_worker(shutdown_grace_seconds=0)
    await occurs(running)
    await worker.stop()
    job = await row(sql, job_id)
    assert (job["status"], job["last_error"]) == ("FAILED", "PermanentError: no use")


async def test_a_handler_that_snoozes_at_a_stop_is_due_when_it_said(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    running = asyncio.Event()

    @handlers.handler("mail", max_retries=0)
    async def handle(payload: Any) -> None:
        await interrupted(running, Snooze(3600))

    job_id = await put("mail")
    worker = await start_worker(shutdown_grace_seconds=0)
    await occurs(running)
    await worker.stop()
    job = await row(sql, job_id)
    assert (job["status"], job["attempts"]) == ("PENDING", 0)
    assert (job["next_run_at"] - job["created_at"]).total_seconds() >= 3600
