"""Group commit of concurrent requests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from service.db.engine import Database
from service.errors import InvalidInput, Unavailable
from service.jobs import EnqueuedJob, Intake, NewJob, enqueue
from service.jobs.core.encoding import MAX_STATEMENT_BYTES
from service.jobs.enqueue.group_commit import MAX_WAITING_BYTES
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


async def test_a_value_that_postgresql_refuses_harms_no_other_job(intake: Intake, sql: Any) -> None:
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


@pytest.fixture
async def slow_disk(sql: Any) -> None:
    """Storing jobs takes a second for each million bytes of payloads."""
    await sql.execute(
        "CREATE FUNCTION slow_rows() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM pg_sleep((SELECT sum(length(payload::text)) FROM new_rows) / 1000000.0);"
        " RETURN NULL; END $$"
    )
    await sql.execute(
        "CREATE TRIGGER slow_rows AFTER INSERT ON jobs_live REFERENCING NEW TABLE AS new_rows"
        " FOR EACH STATEMENT EXECUTE FUNCTION slow_rows()"
    )


@pytest.mark.whole
async def test_a_group_is_bounded_by_its_bytes(intake: Intake, sql: Any) -> None:
    payload = "x" * 180_000
    await asyncio.gather(*(intake.submit(NewJob("mail", payload)) for _ in range(500)))
    groups = "SELECT count(*) FROM jobs_live GROUP BY xmin::text"
    counts = [row[0] for row in await sql.fetch(groups)]
    assert sum(counts) == 500
    assert max(counts) <= MAX_STATEMENT_BYTES / len(payload)


@pytest.mark.whole
@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keyed"])
async def test_a_group_that_takes_too_long_is_stored_in_halves_each_job_once(
    database: Database,
    make_settings: Callable[..., Settings],
    sql: Any,
    slow_disk: None,
    keyed: bool,
) -> None:
    intake = Intake(database, make_settings(query_timeout_seconds=2.0))
    jobs = [
        NewJob("mail", f"{n}" + "x" * 100_000, unique_key=f"key-{n}" if keyed else None)
        for n in range(30)
    ]
    stored = await asyncio.gather(*(intake.submit(job) for job in jobs))
    await intake.stop()
    assert all(job.created for job in stored)
    ids = {row[0] for row in await sql.fetch("SELECT id FROM background_jobs")}
    assert ids == {job.id for job in stored}


@pytest.mark.whole
async def test_a_job_that_cannot_be_stored_in_time_is_refused(
    database: Database, make_settings: Callable[..., Settings], sql: Any, slow_disk: None
) -> None:
    intake = Intake(database, make_settings(query_timeout_seconds=1.0, max_payload_bytes=4_000_000))
    jobs = [NewJob("mail", "x" * size) for size in (10, 3_000_000, 20)]
    answers = await asyncio.gather(*(intake.submit(job) for job in jobs), return_exceptions=True)
    await intake.stop()
    assert isinstance(answers[1], Unavailable)
    assert "did not store the job" in answers[1].detail
    rows = await sql.fetch("SELECT id FROM background_jobs ORDER BY id")
    assert [row["id"] for row in rows] == [answers[0].id, answers[2].id]  # type: ignore[union-attr]


@pytest.mark.whole
async def test_memory_is_bounded_while_the_database_hangs(
    database: Database, intake: Intake, sql: Any
) -> None:
    payload = "x" * 250_000
    fit = MAX_WAITING_BYTES // len(payload)
    somebody = await database.connect()
    async with somebody.transaction():
        await somebody.execute("LOCK TABLE jobs_live")
        asked = [asyncio.create_task(intake.submit(NewJob("mail", payload))) for _ in range(600)]
        refused = [task for task in asked if await _refused_at_once(task)]
    await somebody.close()
    stored = await asyncio.gather(*(task for task in asked if task not in refused))
    assert 600 - fit <= len(refused) <= 600 - fit + 2
    assert len(stored) + len(refused) == 600


async def _refused_at_once(task: "asyncio.Task[EnqueuedJob]") -> bool:
    await asyncio.sleep(0)
    return task.done() and isinstance(task.exception(), Unavailable)
