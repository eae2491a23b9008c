"""What comes in the way of an operation: rows that others hold or change, and statements that are too slow."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import Registry, retry_dead_letter_job
from service.jobs.actions.many import ActionContext, act_on
from service.jobs.core.bulk_action import BulkAction, Verb
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import MAX_ID
from service.jobs.core.payload_field import PayloadField
from service.jobs.read.walk import take_step
from service.operations.runner import bind
from service.settings import Settings
from tests.jobs.conftest import StartWorker
from tests.operations.conftest import Fill, Start, Until

MAIL = JobFilters(job_type="mail")
CONTEXT = ActionContext(by="ada", max_errors=20, max_payload_bytes=1000)


async def test_a_job_that_was_retried_a_moment_ago_is_not_deleted(
    fill: Fill, sql: Any, database: Database
) -> None:
    await fill(3)
    async with database.sessions.begin() as session:
        step = await take_step(session, MAIL, before=MAX_ID, want=10, scan=10)
        async with database.sessions.begin() as another:
            await retry_dead_letter_job(another, step.jobs[1].id)
        done = await act_on(session, BulkAction(verb=Verb.DELETE), step.jobs, CONTEXT)
    assert len(done.changed) == 2
    assert [(one.job_id, one.reason) for one in done.skipped] == [
        (step.jobs[1].id, "changed_meanwhile")
    ]
    left = await sql.fetch("SELECT id, status FROM background_jobs")
    assert [tuple(row) for row in left] == [(step.jobs[1].id, "PENDING")]


@pytest.mark.whole
async def test_many_held_jobs_cost_one_wait_and_not_one_each(
    operator: None, fill: Fill, start: Start, until: Until, sql: Any, database: Database
) -> None:
    await fill(200, status="PENDING")
    async with database.sessions.begin() as session:
        await (await session.connection()).exec_driver_sql(
            "SELECT FROM jobs_live WHERE job_type = 'mail' AND id % 2 = 0 FOR UPDATE"
        )
        began = time.monotonic()
        done = await until(await start(Verb.SET_PRIORITY, MAIL, priority=0), "done")
        took = time.monotonic() - began
    assert (done.changed, done.skipped) == (100, {"locked": 100})
    assert took < 20


@pytest.mark.whole
async def test_an_operation_whose_rows_are_slow_to_look_at_takes_fewer_at_a_time(
    fill: Fill, start: Start, until: Until, sql: Any, database: Database, start_worker: StartWorker,
    handlers: Registry, make_settings: Callable[..., Settings],
) -> None:  # fmt: skip
    # A statement may take a quarter of a second, and 200 of these rows take longer to look at.
    bind(database, make_settings(database_command_timeout_seconds=0.3), to=handlers)
    await fill(200)
    await sql.execute(
        "UPDATE jobs_dead SET payload = jsonb_build_object('x', repeat('x', 4000000))"
    )
    operation = await start(Verb.RETRY, JobFilters(payload=(PayloadField(("y",), "1"),)))
    await start_worker()
    assert (await until(operation, "done", seconds=60)).changed == 0


async def test_the_note_says_why_the_last_attempt_failed_while_the_operation_goes_on(
    fill: Fill, start: Start, until: Until, sql: Any
) -> None:
    await fill(1)
    operation = await start(Verb.RETRY, MAIL)
    await sql.execute("UPDATE jobs_live SET attempts = 1, last_error = 'QueryCanceledError: slow'")
    note = (await until(operation, "running")).note
    assert note is not None
    assert note.endswith("failed: QueryCanceledError: slow")


async def test_an_operation_at_a_low_rate_gives_its_slot_back_until_the_next_job(
    operator: None, fill: Fill, start: Start, until: Until, sql: Any
) -> None:
    await fill(3)
    await start(Verb.RETRY, MAIL, rate=0.002)
    waits = (
        "SELECT extract(epoch FROM next_run_at - now()) > 400 FROM jobs_live"
        " WHERE job_type = 'finmind.operation' AND status = 'PENDING' AND attempts = 0"
    )
    async with asyncio.timeout(10):
        while not await sql.fetchval(waits):
            pass
    assert await sql.fetchval("SELECT changed FROM operations") == 1
