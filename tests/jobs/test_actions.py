"""What a person does to single jobs: retry, cancel, move, delete."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict, InvalidInput, NotFound
from service.jobs import (
    JobId,
    JobStatus,
    PermanentError,
    Registry,
    cancel_job,
    delete_job,
    reschedule_job,
    retry_dead_letter_job,
)
from tests.jobs.conftest import Events, Put, StartWorker
from tests.jobs.waiting import until_ended


async def dead_job(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, **options: Any
) -> JobId:
    @handlers.handler("dies", max_retries=0)
    async def handle(payload: Any) -> None:
        raise ValueError("the first life")

    job_id = await put("dies", {"n": 1}, **options)
    worker = await start_worker()
    assert (await until_ended(sql, job_id))["status"] == "DEAD_LETTER"
    await worker.stop()
    return job_id


async def row(sql: Any, job_id: int) -> Any:
    return await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)


async def test_a_retried_letter_is_pending_due_now_and_keeps_its_history(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker,
    events: Events,
) -> None:  # fmt: skip
    job_id = await dead_job(handlers, put, sql, start_worker)
    before = await sql.fetchval("SELECT clock_timestamp()")
    async with session.begin():
        job = await retry_dead_letter_job(session, job_id, by="ada")
    after = await sql.fetchval("SELECT clock_timestamp()")
    assert (job.status, job.attempts, job.finished_at) == ("PENDING", 0, None)
    assert before <= job.next_run_at <= after
    assert (job.payload, job.last_error) == ({"n": 1}, "ValueError: the first life")
    assert job.errors is not None
    error, retry = job.errors
    assert (error["event"], error["message"]) == ("error", "the first life")
    assert (retry["event"], retry["by"], retry["attempt"]) == ("manual_retry", "ada", 1)
    assert set(retry) == set(error)
    assert events("manual_retry", "dies") == 1


async def test_a_retried_letter_runs_again_with_all_its_attempts(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    job_id = await dead_job(handlers, put, sql, start_worker)
    async with session.begin():
        await retry_dead_letter_job(session, job_id)
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"]) == ("DEAD_LETTER", 1)
    assert [entry["event"] for entry in job["errors"]] == ["error", "manual_retry", "error"]


async def test_a_failed_job_can_be_retried(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        raise PermanentError("no")

    job_id = await put("mail")
    await start_worker()
    assert (await until_ended(sql, job_id))["status"] == "FAILED"
    async with session.begin():
        assert (await retry_dead_letter_job(session, job_id)).status == "PENDING"


async def test_a_retry_whose_key_is_held_leaves_the_dead_letter(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    job_id = await dead_job(handlers, put, sql, start_worker, unique_key="k")
    other = await put("other", unique_key="k")
    before = await row(sql, job_id)
    async with session.begin():
        with pytest.raises(Conflict, match="unique_key"):
            await retry_dead_letter_job(session, job_id)
        # The caller's transaction is still good.
        await cancel_job(session, other)
        assert (await retry_dead_letter_job(session, job_id)).status == "PENDING"
        await session.rollback()
    assert await row(sql, job_id) == before


async def test_a_key_is_free_again_once_its_job_has_ended(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    first = await dead_job(handlers, put, sql, start_worker, unique_key="k")
    assert await put("dies", unique_key="k") != first


async def test_a_retry_that_is_rolled_back_changes_nothing(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    job_id = await dead_job(handlers, put, sql, start_worker)
    before = await row(sql, job_id)
    async with session.begin() as transaction:
        await retry_dead_letter_job(session, job_id)
        await transaction.rollback()
    assert await row(sql, job_id) == before


async def test_a_cancelled_job_is_never_run(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    ran = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        ran.append(payload["n"])

    cancelled = await put("mail", {"n": 1}, unique_key="k")
    async with session.begin():
        job = await cancel_job(session, cancelled)
    assert (job.status, job.attempts) == ("CANCELLED", 0)
    assert job.finished_at is not None
    again = await put("mail", {"n": 2}, unique_key="k")
    await start_worker()
    await until_ended(sql, again)
    assert ran == [2]


async def test_a_moved_job_is_due_at_its_new_time(
    put: Put, sql: Any, session: AsyncSession
) -> None:
    job_id = await put("mail")
    run_at = datetime.now(UTC) + timedelta(days=1)
    async with session.begin():
        await reschedule_job(session, job_id, run_at)
    assert (await row(sql, job_id))["next_run_at"] == run_at
    with pytest.raises(InvalidInput, match="time zone"):
        await reschedule_job(session, job_id, run_at.replace(tzinfo=None))


async def test_a_deleted_job_is_gone(put: Put, sql: Any, session: AsyncSession) -> None:
    job_id = await put("mail")
    async with session.begin():
        await delete_job(session, job_id)
    assert await row(sql, job_id) is None


async def move(session: AsyncSession, job_id: JobId) -> None:
    await reschedule_job(session, job_id, datetime.now(UTC))


Action = Callable[[AsyncSession, JobId], Awaitable[Any]]
ALLOWED: list[tuple[Action, set[str]]] = [
    (retry_dead_letter_job, {"DEAD_LETTER", "FAILED"}),
    (cancel_job, {"PENDING"}),
    (move, {"PENDING"}),
    (delete_job, {"PENDING", "SUCCESS", "FAILED", "DEAD_LETTER", "CANCELLED"}),
]


@pytest.mark.parametrize(("action", "allowed"), ALLOWED)
async def test_an_action_is_refused_where_the_status_does_not_allow_it(
    sql: Any, session: AsyncSession, action: Action, allowed: set[str]
) -> None:
    for status in JobStatus:
        job_id = await sql.fetchval(
            "INSERT INTO background_jobs (job_type, status, finished_at) VALUES ('mail', $1::text,"
            " CASE WHEN $1::text IN ('PENDING', 'RUNNING') THEN NULL ELSE now() END) RETURNING id",
            status.value,
        )
        before = await row(sql, job_id)
        async with session.begin():
            if status in allowed:
                await action(session, job_id)
                continue
            with pytest.raises(Conflict, match=status):
                await action(session, job_id)
        assert await row(sql, job_id) == before


@pytest.mark.parametrize("action", [action for action, _ in ALLOWED])
async def test_an_action_on_no_job_says_so(session: AsyncSession, action: Action) -> None:
    with pytest.raises(NotFound, match="4711"):
        await action(session, JobId(4711))
