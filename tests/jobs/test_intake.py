"""Group commit of concurrent requests."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.db.engine import Database
from service.errors import InvalidInput, Unavailable
from service.jobs import Intake, NewJob, enqueue
from service.settings import Settings
from tests.jobs.waiting import until


@pytest.fixture
async def intake(database: Database, settings: Settings) -> AsyncIterator[Intake]:
    intake = Intake(database, settings)
    yield intake
    await intake.stop()


async def test_an_answered_job_is_committed(intake: Intake, sql: Any) -> None:
    job = await intake.submit(NewJob("mail", {"n": 1}))
    assert job.created
    assert await sql.fetchval("SELECT payload FROM background_jobs WHERE id = $1", job.id) == {
        "n": 1
    }


async def test_every_one_of_many_gets_its_own_job(intake: Intake, sql: Any) -> None:
    jobs = await asyncio.gather(*(intake.submit(NewJob("mail", {"n": n})) for n in range(1_200)))
    stored = {r["id"]: r["payload"]["n"] for r in await sql.fetch("SELECT * FROM background_jobs")}
    assert [stored[job.id] for job in jobs] == list(range(1_200))


async def test_concurrent_requests_share_their_commits(intake: Intake, sql: Any) -> None:
    await asyncio.gather(*(intake.submit(NewJob("mail")) for _ in range(400)))
    transactions = "SELECT count(DISTINCT xmin::text) FROM jobs_live"
    assert await sql.fetchval(transactions) <= 2


async def test_concurrent_requests_with_one_key_make_one_job(intake: Intake, sql: Any) -> None:
    jobs = await asyncio.gather(*(intake.submit(NewJob("mail", unique_key="k")) for _ in range(50)))
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 1
    assert sum(job.created for job in jobs) == 1
    assert len({job.id for job in jobs}) == 1


async def test_a_refused_job_spoils_none_of_its_neighbours(intake: Intake, sql: Any) -> None:
    answers = await asyncio.gather(
        *(intake.submit(NewJob("mail", priority=99 if n == 5 else 1)) for n in range(10)),
        return_exceptions=True,
    )
    assert isinstance(answers[5], InvalidInput)
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 9


async def test_a_value_that_only_postgresql_refuses_spoils_none_of_its_neighbours(
    intake: Intake, sql: Any
) -> None:
    await sql.execute("ALTER TABLE jobs_live ADD CHECK (payload <> '\"refuse me\"')")
    answers = await asyncio.gather(
        *(intake.submit(NewJob("mail", "refuse me" if n == 5 else n)) for n in range(10)),
        return_exceptions=True,
    )
    assert isinstance(answers[5], InvalidInput)
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 9


async def test_a_client_that_left_does_not_keep_others_from_their_answer(
    intake: Intake, sql: Any
) -> None:
    leaving = asyncio.create_task(intake.submit(NewJob("mail")))
    staying = asyncio.create_task(intake.submit(NewJob("mail")))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).created
    # Not sent yet when it left: it will ask again, and would have two.
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 1


async def test_a_cut_connection_is_answered_and_the_next_request_goes_through(
    intake: Intake, sql: Any
) -> None:
    await intake.submit(NewJob("mail", unique_key="before"))
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%jobs_live%'"
    await sql.execute(cut + " AND pid <> pg_backend_pid() AND datname = current_database()")

    refusals: list[str] = []

    async def goes_through() -> bool:
        try:
            return (await intake.submit(NewJob("mail", unique_key="after"))).id > 0
        except Unavailable as error:
            refusals.append(error.detail)
            return False

    assert await until(goes_through)
    assert all("Idempotency-Key" in detail for detail in refusals)


async def test_a_key_held_by_an_open_transaction_holds_up_no_job_without_a_key(
    intake: Intake, database: Database, sql: Any
) -> None:
    somebody = await database.connect()
    transaction = somebody.transaction()
    await transaction.start()
    await enqueue(somebody, "mail", unique_key="held")
    keyed = asyncio.create_task(intake.submit(NewJob("mail", unique_key="held")))
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    await until(lambda: sql.fetchval(waits + " AND datname = current_database()"))
    async with asyncio.timeout(3):  # sooner than a statement is given up
        assert (await intake.submit(NewJob("mail"))).created
    assert not keyed.done()
    await transaction.rollback()
    assert (await keyed).created
    await somebody.close()


async def test_what_waits_is_stored_before_the_stop(
    database: Database, settings: Settings, sql: Any
) -> None:
    intake = Intake(database, settings)
    jobs = [NewJob("mail", unique_key=f"key-{n}" if n % 2 else None) for n in range(600)]
    tasks = [asyncio.create_task(intake.submit(job)) for job in jobs]
    await asyncio.sleep(0)
    await intake.stop()
    await asyncio.gather(*tasks)
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 600
