"""A claim walks so far and no further: jobs that others serve hold up nobody in their queue."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from service.db.engine import Database
from service.jobs import Registry, process_due_jobs, store
from service.jobs.core.lane import LANE_START, Lane, LaneRequest
from service.jobs.worker.pipeline import Pipeline
from service.jobs.worker.plan.windows import WINDOW_JOBS
from tests.jobs.conftest import Put, Quick, StartWorker
from tests.jobs.waiting import occurs, until_ended

OTHERS = 5 * WINDOW_JOBS
READ = (
    "SELECT idx_tup_read FROM pg_stat_user_indexes"
    " WHERE schemaname = 'finmind_jobs' AND indexrelname = 'jobs_live_claim'"
)
LANE = LaneRequest(Lane("default", 2), LANE_START, 10)


@pytest.fixture
def ran(handlers: Registry) -> asyncio.Event:
    """Set once a job of type `ours` has run, the only type that is served."""
    ran = asyncio.Event()

    @handlers.handler("ours")
    async def handle(_payload: Any) -> None:
        ran.set()

    return ran


@pytest.fixture
async def backlog(sql: Any) -> None:
    """Due jobs of a type that is served elsewhere, all of one time, as a single INSERT makes them."""
    await sql.execute(
        "INSERT INTO jobs_live (job_type, payload, next_run_at)"
        " SELECT 'others', '{}', now() - interval '1 hour' FROM generate_series(1, $1)",
        OTHERS,
    )


@pytest.fixture
async def pipeline(
    database: Database, handlers: Registry, quick: Quick, ran: asyncio.Event
) -> AsyncIterator[Pipeline]:
    pipeline = Pipeline(database, quick(), handlers=handlers)
    await pipeline.start()
    yield pipeline
    await pipeline.stop(grace_seconds=5)


async def walked_by_a_claim(pipeline: Pipeline, sql: Any) -> tuple[int, int]:
    """How many jobs a claim brought, and how many index entries were read for it."""
    before = await sql.fetchval(READ)
    claimed, _ = await pipeline.claimer.claim_once(10)
    await pipeline.link.fetch("SELECT pg_stat_force_next_flush()")
    return claimed, await sql.fetchval(READ) - before


@pytest.mark.whole
@pytest.mark.usefixtures("backlog")
async def test_a_claim_walks_a_bounded_window_and_the_next_goes_on(
    pipeline: Pipeline, put: Put, sql: Any
) -> None:
    await put("ours")
    await pipeline.claimer.plan._watcher.once()
    pipeline.claimer.plan._next_sweep = float("inf")
    walks = [await walked_by_a_claim(pipeline, sql) for _ in range(OTHERS // WINDOW_JOBS + 1)]
    # Once for where the window ends, once for the claim.
    assert max(read for _, read in walks) <= 2 * WINDOW_JOBS + 10
    assert [claimed for claimed, _ in walks] == [0] * (OTHERS // WINDOW_JOBS) + [1]
    await put("ours")
    claimed, read = await walked_by_a_claim(pipeline, sql)
    assert (claimed, read < 10) == (1, True)


@pytest.mark.usefixtures("backlog")
async def test_a_sweep_walks_a_bounded_window_and_the_next_goes_on(
    pipeline: Pipeline, put: Put, sql: Any
) -> None:
    await put("ours")
    await pipeline.claimer.plan._watcher.once()
    pipeline.claimer.plan._next_sweep = float("inf")
    while (await walked_by_a_claim(pipeline, sql))[0] == 0:
        pass
    await sql.execute(
        "UPDATE jobs_live SET job_type = 'ours' WHERE id ="
        " (SELECT min(id) + $1 FROM jobs_live WHERE job_type = 'others')",
        OTHERS // 2,
    )
    walks: list[tuple[int, int]] = []
    while not any(claimed for claimed, _ in walks):
        pipeline.claimer.plan._next_sweep = 0.0
        walks.append(await walked_by_a_claim(pipeline, sql))
        assert len(walks) < 100
    assert max(read for _, read in walks) <= 2 * WINDOW_JOBS + 1_000


@pytest.mark.whole
async def test_after_a_claim_that_took_too_long_the_next_walks_a_window(
    pipeline: Pipeline, put: Put, sql: Any
) -> None:
    await put("ours")
    await pipeline.claimer.plan._watcher.once()
    pipeline.claimer.plan._next_sweep = float("inf")
    await pipeline.claimer._hand_over.look()
    pipeline.claimer._hand_over._looked_at = float("inf")  # else it is the look that meets the lock
    assert (await walked_by_a_claim(pipeline, sql))[
        0
    ] == 1  # all was well, so the next trusts in it
    await sql.execute(
        "INSERT INTO jobs_live (job_type, payload) SELECT 'others', '{}' FROM generate_series(1, $1)",
        OTHERS,
    )
    await pipeline.link.fetch("SET lock_timeout = '100ms'")
    async with sql.transaction():
        await sql.execute("LOCK TABLE jobs_live IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await pipeline.claimer.claim_once(10)
    await pipeline.link.fetch("SET lock_timeout = 0")
    await walked_by_a_claim(pipeline, sql)
    await put("ours")
    walks = [await walked_by_a_claim(pipeline, sql) for _ in range(OTHERS // WINDOW_JOBS)]
    assert max(read for _, read in walks) <= 2 * WINDOW_JOBS + 10
    assert sum(claimed for claimed, _ in walks) == 1


@pytest.mark.usefixtures("backlog")
async def test_a_worker_runs_its_job_behind_a_backlog_that_others_serve(
    ran: asyncio.Event, put: Put, start_worker: StartWorker
) -> None:
    await put("ours")
    await start_worker(poll_min_seconds=10, poll_max_seconds=60)
    await occurs(ran)  # walking on waits for no poll


@pytest.mark.usefixtures("backlog")
async def test_a_pass_runs_its_job_behind_a_backlog_that_others_serve(
    database: Database, handlers: Registry, ran: asyncio.Event, put: Put, sql: Any, quick: Quick
) -> None:
    job_id = await put("ours")
    await sql.execute(
        "INSERT INTO job_workers (name, queues, job_types, concurrency)"
        " VALUES ('elsewhere', '{*}', '{others}', 1)"
    )
    await process_due_jobs(database, settings=quick(), handlers=handlers)
    assert ran.is_set()
    assert (await until_ended(sql, job_id))["status"] == "SUCCESS"


@pytest.mark.parametrize("year", [2000, 2026])
async def test_windows_meet_within_one_microsecond(database: Database, sql: Any, year: int) -> None:
    link = database.link()
    ids = [
        row["id"]
        for row in await sql.fetch(
            "INSERT INTO jobs_live (job_type, payload, next_run_at)"
            " SELECT 'ours', '{}', $1 FROM generate_series(1, 10) RETURNING id",
            datetime(year, 1, 2, 3, 4, 5, 678901, UTC),
        )
    ]
    found, request = [], LANE
    while True:
        (window,) = await store.claim.within_windows(link, [request], jobs=3)
        jobs = await store.claim.take(
            link, [window], ["ours"], limit=10, lease_seconds=9, worker_id=1, max_errors=9
        )
        found.append([job.id for job in jobs])
        if not window.continues:
            break
        request = LANE._replace(start=window.end)
    await link.close()
    assert found == [ids[:3], ids[3:6], ids[6:9], ids[9:]]
