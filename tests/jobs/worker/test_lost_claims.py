"""A claim whose answer never came is given back at once: its lease costs no attempt."""

import asyncio
import time
from typing import Any

import pytest

from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.jobs import Registry, process_due_jobs, store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import LANE_START, Lane, LaneRequest
from service.jobs.worker.pipeline import Pipeline
from service.settings import Settings
from tests.jobs.conftest import Put, Quick, StartWorker
from tests.jobs.proxy import Proxy
from tests.jobs.waiting import occurs, until, until_ended, until_job, until_true

LANE = Lane("lost.answers", 2)
CLAIM = (LANE.queue.encode(), b"mail")
"""A claim alone names both a lane and a type."""

HELD = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query LIKE '%WITH due%' AND datname = current_database()"""
LOOKED_FOR = """
SELECT count(*) FROM pg_stat_activity
WHERE state = 'idle' AND query LIKE '%r.worker_id = $%<> ALL%' AND datname = current_database()"""
HOLD_CLAIMS = "ALTER SEQUENCE background_job_lease_tokens CACHE 1"
"""Until its transaction ends no claim gets a token: each waits with its rows locked."""


def assert_given_back(job: Any) -> None:
    assert (job["status"], job["attempts"], job["lost_leases"]) == ("SUCCESS", 1, 0)
    assert job["errors"] is None


@pytest.mark.whole
async def test_a_claim_whose_answer_was_lost_is_given_back_and_run(
    proxy: Proxy, proxied: Database, handlers: Registry, put: Put, sql: Any,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    handlers.handler("mail")(lambda _: None)
    proxy.lose_answer_to(*CLAIM)
    job_id = await put("mail", queue=LANE.queue, max_retries=0)
    await start_worker(database=proxied)  # whose leases are twice as long as this test may take
    await occurs(proxy.lost)
    assert_given_back(await until_ended(sql, job_id))


@pytest.mark.whole
async def test_what_runs_is_not_given_back_with_it(
    proxy: Proxy, proxied: Database, handlers: Registry, put: Put, sql: Any,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    running, go_on = asyncio.Event(), asyncio.Event()
    ran = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        ran.append(payload)
        if payload == "first":
            running.set()
            await go_on.wait()

    first = await put("mail", "first", queue=LANE.queue)
    await start_worker(database=proxied)
    await occurs(running)
    proxy.lose_answer_to(*CLAIM)
    second = await put("mail", "second", queue=LANE.queue)
    await occurs(proxy.lost)
    assert_given_back(await until_ended(sql, second))
    go_on.set()
    assert_given_back(await until_ended(sql, first))
    assert ran == ["first", "second"]


@pytest.mark.whole
async def test_a_lost_claim_that_takes_effect_late_is_given_back_too(
    proxy: Proxy, proxied: Database, database: Database, handlers: Registry, put: Put, sql: Any,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    handlers.handler("mail")(lambda _: None)
    worker = await start_worker(database=proxied)
    other = await database.connect()
    async with other.transaction():
        await other.execute(HOLD_CLAIMS)
        job_id = await put("mail", queue=LANE.queue, max_retries=0)
        await until(lambda: sql.fetchval(HELD))
        await proxy.cut()
        await proxy.start()
        claimer = worker._pipeline.claimer
        await until_true(lambda: bool(claimer.recovery._lanes))
        # It has come round twice since: the statement, which goes on, was looked for in vain.
        for _ in range(2):
            before = worker.last_loop_at
            await until_true(lambda before=before: worker.last_loop_at > before)  # type: ignore[misc]
        assert await sql.fetchval(HELD)
    await other.close()
    assert_given_back(await until_ended(sql, job_id))


@pytest.mark.whole
async def test_a_worker_that_stops_gives_back_what_a_lost_claim_took(
    proxy: Proxy, proxied: Database, handlers: Registry, put: Put, sql: Any,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    handlers.handler("mail")(lambda _: None)
    proxy.lose_answer_to(*CLAIM, cut=False)
    job_id = await put("mail", queue=LANE.queue)
    worker = await start_worker(database=proxied, database_command_timeout_seconds=1)
    await occurs(proxy.lost)
    await worker.stop()
    row = await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)
    assert (row["status"], row["attempts"], row["lease_until"]) == ("PENDING", 0, None)


@pytest.mark.whole
async def test_a_stop_waits_for_a_lost_claim_that_may_take_effect(
    proxy: Proxy, proxied: Database, database: Database, handlers: Registry, put: Put, sql: Any,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    handlers.handler("mail")(lambda _: None)
    worker = await start_worker(database=proxied)
    other = await database.connect()
    async with other.transaction():
        await other.execute(HOLD_CLAIMS)
        job_id = await put("mail", queue=LANE.queue)
        await until(lambda: sql.fetchval(HELD))
        worker.stop_claiming()  # so that it is the stop that looks for the claim
        await proxy.cut()
        await proxy.start()
        stopping = asyncio.create_task(worker.stop())
        await until(lambda: sql.fetchval(LOOKED_FOR))
        assert await sql.fetchval(HELD)
    await other.close()
    await stopping
    row = await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)
    assert (row["status"], row["attempts"], row["lease_until"]) == ("PENDING", 0, None)


@pytest.mark.whole
async def test_a_worker_that_stops_gives_it_back_while_its_running_jobs_end(
    proxy: Proxy, proxied: Database, database: Database, handlers: Registry, put: Put, sql: Any,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    """They may take longer than its lease lasts."""
    running, go_on = asyncio.Event(), asyncio.Event()

    @handlers.handler("mail")
    async def handle(_: Any) -> None:
        running.set()
        await go_on.wait()

    await put("mail", queue=LANE.queue)
    worker = await start_worker(database=proxied, shutdown_grace_seconds=60)
    await occurs(running)
    other = await database.connect()
    async with other.transaction():
        await other.execute(HOLD_CLAIMS)
        job_id = await put("mail", queue=LANE.queue)
        await until(lambda: sql.fetchval(HELD))
        worker.stop_claiming()
        await proxy.cut()
        await proxy.start()
        stopping = asyncio.create_task(worker.stop())
        await until(lambda: sql.fetchval(LOOKED_FOR))
    await other.close()
    row = await until_job(sql, job_id, where="status = 'PENDING' AND lease_token > 0")
    assert (row["attempts"], row["lease_until"]) == (0, None)
    assert not stopping.done()
    go_on.set()
    await stopping


@pytest.mark.whole
@pytest.mark.parametrize("end", ["cancelled", "cut"])
async def test_a_pass_that_ends_in_the_middle_of_a_claim_gives_its_jobs_back(
    proxy: Proxy, proxied: Database, handlers: Registry, put: Put, sql: Any, quick: Quick, end: str
) -> None:
    handlers.handler("mail")(lambda _: None)
    job_id = await put("mail", queue=LANE.queue)
    proxy.lose_answer_to(*CLAIM, cut=end == "cut")
    task = asyncio.create_task(process_due_jobs(proxied, settings=quick(), handlers=handlers))
    await occurs(proxy.lost)
    if end == "cancelled":
        task.cancel()
    with pytest.raises((asyncio.CancelledError, *DATABASE_ERRORS)):
        await task

    async def given_back() -> bool:
        row = await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)
        return (row["status"], row["attempts"], row["lease_until"]) == ("PENDING", 0, None)

    await until(given_back)
    again = await process_due_jobs(proxied, settings=quick(), handlers=handlers)
    assert again.succeeded == 1
    assert_given_back(await until_ended(sql, job_id))


async def test_a_give_back_that_comes_late_leaves_alone_what_was_claimed_since(
    database: Database, put: Put, sql: Any
) -> None:
    job_id = await put("mail", queue=LANE.queue)
    link = database.link()
    worker_id, _ = await store.workers.register(
        link, name="of the test", queues=["*"], job_types=["mail"], concurrency=1, version="1"
    )

    async def claim() -> ClaimedJob:
        (job,) = await store.claim.take(
            link, [LaneRequest(LANE, LANE_START, 1)], ["mail"],
            limit=1, lease_seconds=30, worker_id=worker_id, max_errors=1,
        )  # fmt: skip
        return job

    unheard = await claim()
    lost = await store.lost_claims.find(link, {LANE: LANE_START}, worker_id=worker_id, known=[])
    assert lost == [unheard.lease]
    assert await store.lost_claims.release(link, lost) == 1
    running = await claim()
    # Its first try was cut off, and the server carries it out only now.
    assert await store.lost_claims.release(link, lost) == 0
    assert (
        await store.lost_claims.find(
            link, {LANE: LANE_START}, worker_id=worker_id, known=[running.lease_token]
        )
        == []
    )
    await link.close()
    row = await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)
    assert (row["status"], row["lease_token"]) == ("RUNNING", running.lease_token)


async def test_a_lost_claim_is_not_looked_for_once_its_lease_has_ended(settings: Settings) -> None:
    nowhere = Database("postgresql://jobs@127.0.0.1:9/jobs", settings)
    claimer = Pipeline(nowhere, settings).claimer
    claimer.recovery._lanes, claimer.recovery._asked_by = {LANE: LANE_START}, {1}
    claimer.recovery._until = time.monotonic() - settings.lease_seconds + 1
    with pytest.raises(DATABASE_ERRORS):
        await claimer.recovery.recover()
    claimer.recovery._until -= 2
    await claimer.recovery.recover()
    assert claimer.recovery._lanes == {}
    await nowhere.close()
