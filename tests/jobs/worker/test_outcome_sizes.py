"""Outcomes are recorded whatever their size, and however slowly the database takes them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import JobStatus, NewJob, Registry, Snooze, enqueue_batch
from service.jobs.core.encoding import MAX_STATEMENT_BYTES
from service.jobs.core.job import JobId
from service.settings import Settings
from tests.jobs.conftest import Events, Put, StartWorker
from tests.jobs.waiting import occurs, until, until_ended, until_true

pytestmark = pytest.mark.whole

SLOW_ROWS = """
CREATE FUNCTION slow_rows() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  PERFORM pg_sleep((SELECT sum(length(result::text)) FROM new_rows) / 1000000.0);
  RETURN NULL;
END $$"""
"""A million bytes a second."""
SLOW_TABLE = """
CREATE TRIGGER slow_rows AFTER INSERT ON {table} REFERENCING NEW TABLE AS new_rows
FOR EACH STATEMENT EXECUTE FUNCTION slow_rows()"""


@pytest.fixture
async def slow_disk(sql: Any) -> None:
    """Recording an end takes a second for each million bytes of results."""
    await sql.execute(SLOW_ROWS)
    await sql.execute(SLOW_TABLE.format(table="background_jobs"))


@pytest.fixture
async def bounded(
    pg_dsn: str, make_settings: Callable[..., Settings]
) -> AsyncIterator[Callable[[float], Database]]:
    """This test's database with a bound on each statement, in seconds."""
    async with AsyncExitStack() as stack:

        def make(seconds: float) -> Database:
            settings = make_settings(database_command_timeout_seconds=seconds)
            database = Database(pg_dsn, settings)
            stack.push_async_callback(database.close)
            return database

        yield make


async def end_at_once(
    handlers: Registry, sql: Any, results: list[Any]
) -> tuple[list[JobId], list[int]]:
    """Jobs that return `results` when all of them run; and who ran, in order."""
    runs: list[int] = []
    all_run = asyncio.Event()

    @handlers.handler("mail", max_retries=0)
    async def handle(payload: Any) -> Any:
        runs.append(payload["n"])
        if len(runs) == len(results):
            all_run.set()
        await occurs(all_run, seconds=60)
        return results[payload["n"]]

    jobs = await enqueue_batch(sql, [NewJob("mail", {"n": n}) for n in range(len(results))])
    return [job.id for job in jobs], runs


async def until_all_ended(sql: Any, *, seconds: float = 60.0) -> list[Any]:
    async def none_live() -> bool:
        return bool(await sql.fetchval("SELECT count(*) = 0 FROM jobs_live"))

    await until(none_live, seconds=seconds)
    rows: list[Any] = await sql.fetch(
        "SELECT status, last_error, attempts, length(result::text) size FROM background_jobs"
        " ORDER BY id"
    )
    return rows


@pytest.mark.timeout(120)
async def test_results_too_large_for_one_statement_are_recorded_in_several(
    handlers: Registry, sql: Any, start_worker: StartWorker, bounded: Callable[[float], Database]
) -> None:
    fat = "x" * 180_000
    _, runs = await end_at_once(handlers, sql, [fat] * 400)
    await start_worker(
        database=bounded(0.5),
        database_command_timeout_seconds=0.5,
        worker_concurrency=400,
        lease_seconds=60.0,
    )
    rows = await until_all_ended(sql)
    assert {(row["status"], row["size"]) for row in rows} == {("SUCCESS", len(fat) + 2)}
    assert len(runs) == 400
    batches = "SELECT count(*) FROM background_jobs GROUP BY xmin::text"
    largest = max(row[0] for row in await sql.fetch(batches))
    assert largest <= MAX_STATEMENT_BYTES / len(fat)


async def test_a_batch_that_takes_too_long_is_halved_until_it_does_not(
    handlers: Registry, sql: Any, start_worker: StartWorker, slow_disk: None,
    bounded: Callable[[float], Database],
) -> None:  # fmt: skip
    _, runs = await end_at_once(handlers, sql, ["x" * 100_000] * 40)
    await start_worker(database=bounded(0.5), database_command_timeout_seconds=0.5)
    rows = await until_all_ended(sql)
    assert {(row["status"], row["attempts"]) for row in rows} == {("SUCCESS", 1)}
    assert len(runs) == 40


async def test_an_unrecordable_outcome_ends_its_job_failed_with_the_reason(
    handlers: Registry, sql: Any, start_worker: StartWorker, slow_disk: None,
    bounded: Callable[[float], Database], events: Events,
) -> None:  # fmt: skip
    results = ["small", "x" * 5_000_000, "small", "small"]
    _, runs = await end_at_once(handlers, sql, results)
    await start_worker(
        database=bounded(0.5), database_command_timeout_seconds=0.5, max_payload_bytes=8_000_000
    )
    rows = await until_all_ended(sql)
    statuses = [row["status"] for row in rows]
    assert statuses == ["SUCCESS", "FAILED", "SUCCESS", "SUCCESS"]
    assert "could not be recorded within DATABASE_COMMAND_TIMEOUT_SECONDS" in rows[1]["last_error"]
    assert len(runs) == 4
    await until_true(lambda: events("failed", "mail", "bad_result") == 1)


async def test_a_requeue_does_not_wait_behind_an_end_that_hangs(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, database: Database
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        return None

    @handlers.handler("later")
    async def snooze(payload: Any) -> None:
        raise Snooze(3600)

    somebody = await database.connect()
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with somebody.transaction():
        # The table where ends are counted: whoever ends a job waits.
        await somebody.execute("LOCK TABLE job_stats IN EXCLUSIVE MODE")
        ending = await put("mail")
        await start_worker()
        await until(lambda: sql.fetchval(waits + " AND datname = current_database()"))
        snoozed = await put("later")
        back = "SELECT next_run_at > now() + interval '1 minute' FROM jobs_live WHERE id = $1"
        await until(lambda: sql.fetchval(back, snoozed), seconds=5)
        assert await sql.fetchval("SELECT status FROM jobs_live WHERE id = $1", ending) == "RUNNING"
    await somebody.close()
    assert (await until_ended(sql, ending))["status"] == JobStatus.SUCCESS


async def test_no_more_jobs_are_claimed_while_large_outcomes_wait(
    handlers: Registry, sql: Any, start_worker: StartWorker, database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("service.jobs.worker.settler.Settler.MAX_BACKLOG_BYTES", 1_000_000)
    runs = 0

    @handlers.handler("mail")
    async def handle(payload: Any) -> str:
        nonlocal runs
        runs += 1
        return "x" * 200_000

    somebody = await database.connect()
    async with somebody.transaction():
        await somebody.execute("LOCK TABLE job_stats IN EXCLUSIVE MODE")
        await enqueue_batch(sql, [NewJob("mail") for _ in range(30)])
        worker = await start_worker(worker_concurrency=2)
        claimer = worker._pipeline.claimer
        await until_true(lambda: worker._pipeline.settler.backlog_full)
        at = claimer.last_loop_at
        await until_true(lambda: claimer.last_loop_at > at)
        await until_true(lambda: worker.slots.used == 0)
        # The last claim began with room for one outcome more, and brought jobs for both slots and,
        # since the handlers are instant, up to twice as many ahead.
        assert runs <= 4 + 2 + 2 * 2
    await somebody.close()
    await until(lambda: sql.fetchval("SELECT count(*) = 0 FROM jobs_live"), seconds=30)


async def test_a_claim_that_takes_too_long_asks_for_fewer_jobs(
    handlers: Registry, sql: Any, start_worker: StartWorker, bounded: Callable[[float], Database]
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None: ...

    await sql.execute(
        "CREATE FUNCTION slow_claim() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$"
    )
    await sql.execute(
        "CREATE TRIGGER slow_claim BEFORE UPDATE ON jobs_live FOR EACH ROW"
        " WHEN (OLD.status = 'PENDING') EXECUTE FUNCTION slow_claim()"
    )
    await enqueue_batch(sql, [NewJob("mail") for _ in range(60)])
    await start_worker(database=bounded(0.5), database_command_timeout_seconds=0.5)
    rows = await until_all_ended(sql)
    assert {(row["status"], row["attempts"]) for row in rows} == {("SUCCESS", 1)}
