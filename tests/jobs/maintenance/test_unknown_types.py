"""Due jobs whose type nobody serves: FAILED after a grace, and not while some worker serves it."""

from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import REGISTRY

from service.db.engine import Database
from service.jobs import Registry, process_due_jobs
from tests.jobs.conftest import Events, Put, Quick, StartWorker
from tests.jobs.waiting import until, until_ended, until_true

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


async def test_a_type_that_nobody_serves_fails_after_the_grace(
    put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    job_id = await put("unknown.grace", unique_key="k")
    await start_worker(unknown_type_grace_seconds=0.5)
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"]) == ("FAILED", 0)
    assert job["last_error"] == "No handler registered for job type: unknown.grace"
    assert (job["finished_at"] - job["next_run_at"]).total_seconds() >= 0.5
    (entry,) = job["errors"]
    assert (entry["event"], entry["message"]) == ("no_handler", job["last_error"])
    await until_true(lambda: events("failed", "unknown.grace", "no_handler") == 1)


async def passes(sql: Any, put: Put) -> None:
    """Wait until the leader has looked for unserved types: one that is one has gone."""
    await until_ended(sql, await put("nobodys", run_at=LONG_AGO))


async def test_a_type_that_the_leader_serves_is_left(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("served")
    async def handle(payload: Any) -> None: ...

    job_id = await put("served", queue="not.ours")
    await start_worker(worker_queues="default", unknown_type_grace_seconds=0)
    await passes(sql, put)
    assert await sql.fetchval("SELECT status FROM jobs_live WHERE id = $1", job_id) == "PENDING"


async def test_a_type_that_another_live_worker_serves_is_left(
    put: Put, sql: Any, start_worker: StartWorker
) -> None:
    theirs = Registry()

    @theirs.handler("served")
    async def handle(payload: Any) -> None: ...

    await start_worker(unknown_type_grace_seconds=0)
    await passes(sql, put)
    # It serves the type, on another queue: the job stays.
    await start_worker(handlers=theirs, worker_queues="elsewhere")
    job_id = await put("served", run_at=LONG_AGO)
    await passes(sql, put)
    assert await sql.fetchval("SELECT status FROM jobs_live WHERE id = $1", job_id) == "PENDING"


@pytest.mark.whole
async def test_a_type_is_still_served_for_the_grace_after_its_worker_stopped(
    put: Put, sql: Any, start_worker: StartWorker
) -> None:
    theirs = Registry()

    @theirs.handler("served")
    async def handle(payload: Any) -> None: ...

    await start_worker(unknown_type_grace_seconds=2, served_type_memory_days=0)
    await passes(sql, put)
    worker = await start_worker(handlers=theirs)
    await worker.stop()
    job_id = await put("served", run_at=LONG_AGO)
    await passes(sql, put)
    assert await sql.fetchval("SELECT status FROM jobs_live WHERE id = $1", job_id) == "PENDING"
    job = await until_ended(sql, job_id)
    stopped_at = await sql.fetchval("SELECT max(stopped_at) FROM job_workers")
    assert (job["finished_at"] - stopped_at).total_seconds() >= 2


async def test_a_job_that_is_not_due_is_left(put: Put, sql: Any, start_worker: StartWorker) -> None:
    job_id = await put("unknown.later", delay_seconds=3600)
    await start_worker(unknown_type_grace_seconds=0)
    await passes(sql, put)
    assert await sql.fetchval("SELECT status FROM jobs_live WHERE id = $1", job_id) == "PENDING"


async def test_an_unserved_job_behind_served_ones_is_found(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("served")
    async def handle(payload: Any) -> None: ...

    await sql.execute(
        "INSERT INTO background_jobs (job_type, queue)"
        " SELECT 'served', 'elsewhere' FROM generate_series(1, 1000)"
    )
    job_id = await put("unknown.behind", queue="elsewhere")
    await start_worker(worker_queues="default", unknown_type_grace_seconds=0)
    assert (await until_ended(sql, job_id))["status"] == "FAILED"
    assert await sql.fetchval("SELECT count(*) FROM jobs_live") == 1000


async def test_a_single_pass_fails_it_at_once(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick
) -> None:
    job_id = await put("unknown.now")
    summary = await process_due_jobs(database, settings=quick(), handlers=handlers)
    assert (summary.processed, summary.failed) == (1, 1)
    row = await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)
    assert (row["status"], row["last_error"]) == (
        "FAILED",
        "No handler registered for job type: unknown.now",
    )


async def test_a_single_pass_leaves_a_type_that_a_live_worker_serves(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    theirs = Registry()

    @theirs.handler("served")
    async def handle(payload: Any) -> None: ...

    await start_worker(handlers=theirs, worker_queues="elsewhere")
    job_id = await put("served")
    summary = await process_due_jobs(database, settings=quick(), handlers=handlers)
    assert summary.processed == 0
    assert await until(
        lambda: sql.fetchval("SELECT status = 'PENDING' FROM jobs_live WHERE id = $1", job_id)
    )


def serving(*job_types: str) -> Registry:
    """A registry that handles these types."""
    registry = Registry()

    async def handle(payload: Any) -> None: ...

    for job_type in job_types:
        registry.handler(job_type)(handle)
    return registry


async def statuses(sql: Any) -> dict[str, int]:
    rows = await sql.fetch("SELECT status, count(*) FROM background_jobs GROUP BY 1")
    return dict(rows)


@pytest.mark.whole
async def test_a_backlog_whose_workers_are_away_waits_and_is_shown(
    put: Put, sql: Any, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await start_worker(handlers=serving("served.lately"))
    await start_worker(unknown_type_grace_seconds=0.2)
    noted = "SELECT EXISTS (SELECT FROM served_types WHERE job_type = 'served.lately')"
    await until(lambda: sql.fetchval(noted))
    await worker.stop()
    # A deploy that takes longer than a day: nobody knows the worker any more.
    await sql.execute("DELETE FROM job_workers WHERE stopped_at IS NOT NULL")
    jobs = [await put("served.lately", run_at=LONG_AGO) for _ in range(10)]
    await passes(sql, put)

    def shown() -> float | None:
        labels = {"job_type": "served.lately"}
        return REGISTRY.get_sample_value("finmind_jobs_waiting_for_worker", labels)

    await until_true(lambda: shown() == 10)
    assert await statuses(sql) == {"PENDING": 10, "FAILED": 1}
    lines = [r.msg for r in caplog.records if "waiting_for_worker" in str(r.msg)]
    assert [(line["job_type"], line["jobs"]) for line in lines if isinstance(line, dict)] == [
        ("served.lately", 10)
    ]
    await start_worker(handlers=serving("served.lately"))
    for job_id in jobs:
        assert (await until_ended(sql, job_id))["status"] == "SUCCESS"
    await until_true(lambda: shown() is None)


async def test_what_was_served_long_ago_is_forgotten(
    put: Put, sql: Any, start_worker: StartWorker
) -> None:
    await sql.execute(
        "INSERT INTO served_types VALUES ('old', now() - interval '7 days'), ('new', now())"
    )
    await put("old", run_at=LONG_AGO)
    await start_worker(unknown_type_grace_seconds=0)
    await until(lambda: sql.fetchval("SELECT NOT EXISTS (SELECT FROM jobs_live)"))
    assert await sql.fetchval("SELECT status FROM background_jobs") == "FAILED"
    await until(lambda: sql.fetchval("SELECT count(*) = 1 FROM served_types"))


async def test_a_pass_beside_workers_that_are_away_leaves_their_jobs(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick
) -> None:
    await sql.execute("INSERT INTO served_types VALUES ('served.lately', now())")
    await put("served.lately")
    await put("unknown.now")
    summary = await process_due_jobs(database, settings=quick(), handlers=handlers)
    assert (summary.processed, summary.failed) == (1, 1)
    assert await statuses(sql) == {"PENDING": 1, "FAILED": 1}


@pytest.mark.whole
async def test_a_live_worker_whose_row_is_gone_enters_again_and_loses_no_job(
    put: Put, sql: Any, start_worker: StartWorker
) -> None:
    await start_worker(unknown_type_grace_seconds=0.5, served_type_memory_days=0)
    await passes(sql, put)
    worker = await start_worker(
        handlers=serving("served"), worker_queues="elsewhere", lease_seconds=1,
        heartbeat_seconds=0.1,
    )  # fmt: skip
    await sql.execute("TRUNCATE job_workers")
    here = "SELECT count(*) FROM job_workers WHERE name = $1 AND job_types = '{served}'"
    assert await until(lambda: sql.fetchval(here, worker.name)) == 1
    jobs = [await put("served", run_at=LONG_AGO) for _ in range(10)]
    await passes(sql, put)
    assert await statuses(sql) == {"PENDING": 10, "FAILED": 2}
    await sql.execute("UPDATE jobs_live SET queue = 'elsewhere'")
    for job_id in jobs:
        ended = await until_ended(sql, job_id)
        told = await sql.fetchval("SELECT name FROM job_workers WHERE id = $1", ended["worker_id"])
        assert (ended["status"], told) == ("SUCCESS", worker.name)


@pytest.mark.whole
async def test_a_type_that_is_registered_later_is_announced(
    put: Put, sql: Any, start_worker: StartWorker
) -> None:
    await start_worker(unknown_type_grace_seconds=0.5, served_type_memory_days=0)
    await passes(sql, put)
    theirs = serving("early")
    await start_worker(
        handlers=theirs, worker_queues="elsewhere", lease_seconds=1, heartbeat_seconds=0.1
    )

    @theirs.handler("late")
    async def handle(payload: Any) -> None: ...

    announced = "SELECT EXISTS (SELECT FROM job_workers WHERE 'late' = ANY (job_types))"
    await until(lambda: sql.fetchval(announced))
    await put("late", run_at=LONG_AGO)
    await passes(sql, put)
    assert await statuses(sql) == {"PENDING": 1, "FAILED": 2}
