"""A row that PostgreSQL cannot claim harms itself alone."""

from typing import Any

import pytest
from prometheus_client import REGISTRY

from service.db.engine import Database
from service.jobs import Registry
from service.jobs.worker.pipeline import Pipeline
from service.jobs.worker.refused_claims import MAX_ROWS
from tests.jobs.conftest import Events, Put, Quick, StartWorker
from tests.jobs.waiting import until, until_ended, until_true

OUT_OF_RANGE = "INSERT INTO background_jobs (job_type, queue, attempts) VALUES ('mail', $1, 32767)"


@pytest.fixture
async def unchecked(sql: Any) -> None:
    """Rows that come as a restored dump brings them: no trigger has looked at them."""
    await sql.execute("SET session_replication_role = replica")


@pytest.mark.whole
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("queue", ["default", "aside"], ids=["among the good ones", "elsewhere"])
async def test_a_row_that_cannot_be_claimed_fails_alone(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events, queue: str
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        return None

    before = [await put("mail") for _ in range(10)]
    await sql.execute(OUT_OF_RANGE, queue)
    bad = await sql.fetchval("SELECT max(id) FROM background_jobs")
    after = [await put("mail") for _ in range(10)]
    await start_worker()
    for job_id in (*before, *after):
        assert (await until_ended(sql, job_id))["status"] == "SUCCESS"
    job = await until_ended(sql, bad)
    assert job["status"] == "FAILED"
    assert "PostgreSQL refuses to claim this job: smallint out of range" in job["last_error"]
    assert job["errors"][-1]["type"] == "RefusedByDatabase"
    await until_true(lambda: events("failed", "mail", "refused") == 1)


@pytest.mark.whole
@pytest.mark.usefixtures("unchecked")
async def test_where_keys_take_turns_such_a_row_fails_alone_and_they_go_on_to(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    handlers.handler("mail")(lambda _: None)
    await sql.execute("INSERT INTO queues (name, key_fairness) VALUES ('default', true)")
    good = [await put("mail", concurrency_key=key) for key in ("a", "b", "b", "c")]
    for key in ("0", "b", "b", "d"):
        await sql.execute(OUT_OF_RANGE, "default")
        await sql.execute(
            "UPDATE jobs_live SET concurrency_key = $1 WHERE attempts > 0 AND concurrency_key IS NULL",
            key,
        )
    bad = [row["id"] for row in await sql.fetch("SELECT id FROM jobs_live WHERE attempts > 0")]
    await start_worker()
    for job_id in good:
        assert (await until_ended(sql, job_id))["status"] == "SUCCESS"
    for job_id in bad:
        assert (await until_ended(sql, job_id))["status"] == "FAILED"


@pytest.mark.whole
@pytest.mark.usefixtures("unchecked")
async def test_many_bad_rows_at_the_head_of_a_lane_are_all_passed(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        return None

    for _ in range(250):
        await sql.execute(OUT_OF_RANGE, "default")
    good = await put("mail")
    await start_worker()
    assert (await until_ended(sql, good))["status"] == "SUCCESS"
    await until(lambda: sql.fetchval("SELECT count(*) = 0 FROM jobs_live"))


@pytest.mark.whole
@pytest.mark.usefixtures("unchecked")
async def test_what_a_refused_claim_has_not_come_to_is_left_to_the_next(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        return None

    for _ in range(MAX_ROWS + 1):
        await sql.execute(OUT_OF_RANGE, "default")
    await put("mail")
    await sql.execute("UPDATE jobs_live SET next_run_at = now() - interval '1 hour'")
    engine = Pipeline(database, quick(), handlers=handlers)
    await engine.start()
    await engine.claimer.plan._watcher.once()
    engine.claimer.plan._next_sweep = float("inf")
    assert [(await engine.claimer.claim_once(10))[0] for _ in range(2)] == [0, 1]
    await engine.stop(grace_seconds=5)


@pytest.mark.whole
@pytest.mark.usefixtures("unchecked")
async def test_a_refused_claim_is_not_counted_as_an_outage(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    def counted(operation: str) -> float:
        labels = {"operation": operation}
        return REGISTRY.get_sample_value("finmind_database_errors_total", labels) or 0.0

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        return None

    refused, away = counted("claim_refused"), counted("claim")
    await sql.execute(OUT_OF_RANGE, "default")
    await start_worker()
    await until_ended(sql, 1)
    assert counted("claim_refused") == refused + 1
    assert counted("claim") == away
