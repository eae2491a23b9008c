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
from service.jobs.actions import change_job, clone_job, run_job_now
from service.jobs.core.change import JobChange
from service.jobs.core.job_types import JobTypePolicy, policies
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
    (cancel_job, {"PENDING", "RUNNING"}),
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


async def test_an_edited_retry_keeps_the_payload_before(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    job_id = await dead_job(handlers, put, sql, start_worker)
    run_at = datetime.now(UTC) + timedelta(hours=1)
    edit = JobChange(payload={"n": 2}, run_at=run_at, max_retries=5)
    async with session.begin():
        job = await retry_dead_letter_job(session, job_id, by="ada", edit=edit)
    assert (job.payload, job.next_run_at, job.max_retries) == ({"n": 2}, run_at, 5)
    assert job.errors is not None
    assert job.errors[-1]["payload_before"] == {"n": 1}


HOLD = """
UPDATE jobs_live SET held_for = 'key:customer:7', held_since = now(), held_due_at = next_run_at,
  next_run_at = 'infinity' WHERE id = $1
"""


async def test_a_key_that_is_made_of_the_payload_follows_an_edit(
    put: Put, sql: Any, session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = JobTypePolicy(concurrency_key="customer:{payload.customer}")
    monkeypatch.setitem(policies, "mail", rule)
    held = await put("mail", {"customer": 7})
    dead = await put("mail", {"customer": 7})
    given = await put("mail", {"customer": 7}, concurrency_key="mine")
    await sql.execute(HOLD, held)
    await sql.execute("UPDATE background_jobs SET status = 'FAILED' WHERE id = $1", dead)
    edit = JobChange(payload={"customer": 8})
    async with session.begin():
        await change_job(session, held, edit)
        await retry_dead_letter_job(session, dead, edit=edit)
        await change_job(session, given, edit)
    for job_id, key in ((held, "customer:8"), (dead, "customer:8"), (given, "mine")):
        job = await row(sql, job_id)
        assert (job["concurrency_key"], job["held_for"]) == (key, None)
    with pytest.raises(InvalidInput, match=r"payload.customer is missing"):
        async with session.begin():
            await change_job(session, held, JobChange(payload={}))


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (JobChange(payload={"n": "\0"}), "payload"),
        (JobChange(payload={"n": "x" * 300_000}), "payload"),
        (JobChange(max_retries=-1), "max_retries"),
        (JobChange(queue="other"), "queue"),
        (JobChange(priority=1), "priority"),
    ],
)
async def test_an_edit_that_breaks_a_rule_leaves_the_dead_letter(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker,
    edit: JobChange, field: str,
) -> None:  # fmt: skip
    job_id = await dead_job(handlers, put, sql, start_worker)
    before = await row(sql, job_id)
    async with session.begin():
        with pytest.raises(InvalidInput) as refused:
            await retry_dead_letter_job(session, job_id, edit=edit)
    assert refused.value.field == field
    assert await row(sql, job_id) == before


async def test_a_pending_job_is_changed_and_runs_as_it_is_then(
    handlers: Registry, put: Put, session: AsyncSession, start_worker: StartWorker, sql: Any
) -> None:
    seen: list[Any] = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        seen.append(payload)

    job_id = await put("mail", {"n": 1}, run_at=datetime.now(UTC) + timedelta(hours=1))
    change = JobChange(payload={"n": 2}, queue="other", priority=7, max_retries=0)
    async with session.begin():
        job = await change_job(session, job_id, change)
        assert (job.queue, job.priority, job.max_retries) == ("other", 7, 0)
        await run_job_now(session, job_id)
    await start_worker()
    await until_ended(sql, job_id)
    assert seen == [{"n": 2}]


async def test_a_due_job_that_is_moved_goes_to_the_end_of_its_new_lane(
    put: Put, session: AsyncSession, sql: Any
) -> None:
    job_id = await put("mail", run_at=datetime.now(UTC) - timedelta(hours=1))
    before = await sql.fetchval("SELECT clock_timestamp()")
    async with session.begin():
        assert (await change_job(session, job_id, JobChange(max_retries=1))).next_run_at < before
        assert (await change_job(session, job_id, JobChange(priority=3))).next_run_at >= before


async def test_what_is_not_pending_cannot_be_changed(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    job_id = await dead_job(handlers, put, sql, start_worker)
    async with session.begin():
        for act in (
            change_job(session, job_id, JobChange(priority=1)),
            run_job_now(session, job_id),
        ):
            with pytest.raises(Conflict, match="DEAD_LETTER: only PENDING"):
                await act
        with pytest.raises(NotFound):
            await run_job_now(session, JobId(999))
        with pytest.raises(InvalidInput, match="Nothing is to be changed"):
            await change_job(session, job_id, JobChange())


async def test_a_clone_is_a_new_job_without_the_key(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    job_id = await dead_job(
        handlers, put, sql, start_worker, unique_key="k", queue="q", priority=4, timeout_seconds=7,
        concurrency_key="customer:7",
    )  # fmt: skip
    async with session.begin():
        made = await clone_job(session, job_id, by="ada")
    old, new = await row(sql, job_id), await row(sql, made.id)
    kept = (
        "job_type", "payload", "queue", "priority", "max_retries", "timeout_seconds", "backoff",
        "concurrency_key",
    )  # fmt: skip
    assert [new[name] for name in kept] == [old[name] for name in kept]
    assert (new["status"], new["unique_key"], new["enqueued_by"]) == ("PENDING", None, "ada")
    assert old["status"] == "DEAD_LETTER"


async def test_a_clone_keeps_every_digit_of_a_number(
    put: Put, sql: Any, session: AsyncSession
) -> None:
    job_id = await put("copied", {"n": 0})
    payload = '{"n": 12345678901234567890.10, "amount": 0.12345678901234567890}'
    await sql.execute(f"UPDATE jobs_live SET payload = '{payload}' WHERE id = {job_id}")
    async with session.begin():
        made = await clone_job(session, job_id)
    same = "SELECT payload = '%s' FROM jobs_live WHERE id = $1"
    assert await sql.fetchval(same % payload, made.id)


async def test_an_edit_of_a_pending_job_keeps_the_payload_before_whole(
    put: Put, session: AsyncSession
) -> None:
    before = {"text": "x" * 20_000}
    job_id = await put("mail", before)
    async with session.begin():
        job = await change_job(session, job_id, JobChange(payload={"n": 2}))
        assert job.errors is not None
        assert [entry["payload_before"] for entry in job.errors] == [before]
        again = await change_job(session, job_id, JobChange(priority=1))
    assert again.errors == job.errors
