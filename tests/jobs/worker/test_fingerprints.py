"""A job that dies is given the fingerprint of its cause, in the statement that ends it."""

from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import PermanentError, Registry, retry_dead_letter_job
from service.jobs.core.fingerprint import cause_of
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.waiting import until_ended, until_failed_once


async def test_jobs_that_die_of_one_cause_have_one_fingerprint(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        raise PermanentError(f"user {payload} has no address")

    @handlers.handler("fax")
    async def handle_fax(payload: Any) -> None:
        raise PermanentError(f"user {payload} has no address")

    ids = [await put("mail", 7), await put("mail", 42), await put("fax", 7)]
    await start_worker()
    first, second, other = [await until_ended(sql, job_id) for job_id in ids]
    assert first["fingerprint"] == second["fingerprint"] != other["fingerprint"]
    assert "fingerprint" not in first["errors"][-1]


async def test_the_fingerprint_can_be_made_again_of_what_is_stored(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        try:
            {}[payload]
        except KeyError as error:
            raise PermanentError("no such user") from error

    job_id = await put("mail", 7)
    await start_worker()
    job = await until_ended(sql, job_id)
    entry = job["errors"][-1]
    cause = cause_of("mail", entry["type"], entry["message"], entry["traceback"])
    assert cause.fingerprint == job["fingerprint"]


async def test_only_a_job_that_is_dead_has_one(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("good")
    async def handle_good(payload: Any) -> None: ...

    @handlers.handler("again")
    async def handle_again(payload: Any) -> None:
        raise ValueError("no")

    good, again = await put("good"), await put("again", max_retries=5)
    await start_worker()
    assert (await until_ended(sql, good))["fingerprint"] is None
    assert (await until_failed_once(sql, again))["fingerprint"] is None


@pytest.mark.parametrize("status", ["DEAD_LETTER", "FAILED"])
async def test_a_retry_by_hand_drops_it(database: Database, sql: Any, status: str) -> None:
    job_id = await sql.fetchval(
        "INSERT INTO background_jobs (job_type, status, finished_at, fingerprint)"
        " VALUES ('mail', $1, now(), 'c0ffee0123456789') RETURNING id",
        status,
    )
    async with database.sessions.begin() as session:
        await retry_dead_letter_job(session, job_id)
    assert await sql.fetchval("SELECT fingerprint FROM jobs_live WHERE id = $1", job_id) is None
