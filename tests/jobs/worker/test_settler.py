"""Outcomes: recorded once, in batches, whatever becomes of a connection or of one value."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from benchmarks.plans import ExplainingLink
from service.db.connection import Link
from service.db.engine import Database
from service.jobs import NewJob, Registry, enqueue_batch, store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.failures import Failure
from service.jobs.core.outcomes import SUCCEEDED_EMPTY, Retried, Snoozed
from service.jobs.notify.changes import Changes
from service.jobs.worker.run import Run
from service.jobs.worker.settler import Settler
from service.settings import Settings
from tests.jobs.claims import claim
from tests.jobs.conftest import Events, Put, StartWorker
from tests.jobs.proxy import Proxy
from tests.jobs.waiting import occurs, until, until_ended, until_failed_once, until_true


@pytest.fixture
def long_integers() -> Iterator[None]:
    """Python writes integers of any length: PostgreSQL does not hold all of them."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(before)


async def end_together(
    handlers: Registry, sql: Any, start_worker: StartWorker, name: str, results: list[Any]
) -> list[Any]:
    """The rows of jobs that returned `results` at the same moment."""
    running = 0
    all_run = asyncio.Event()

    @handlers.handler(name)
    async def handle(payload: Any) -> Any:
        nonlocal running
        running += 1
        if running == len(results):
            all_run.set()
        await occurs(all_run)
        return results[payload["n"]]

    jobs = await enqueue_batch(sql, [NewJob(name, {"n": n}) for n in range(len(results))])
    await start_worker(settle_delay_seconds=0.1)
    return [await until_ended(sql, job.id) for job in jobs]


async def test_a_result_that_postgresql_refuses_ends_its_own_job_alone(
    handlers: Registry, sql: Any, start_worker: StartWorker, events: Events, long_integers: None
) -> None:
    results: list[Any] = [1, 2, 10**140_000, 4, 5]
    rows = await end_together(handlers, sql, start_worker, "settler.value", results)
    assert [row["status"] for row in rows] == ["SUCCESS", "SUCCESS", "FAILED", "SUCCESS", "SUCCESS"]
    assert [row["result"] for row in rows] == [1, 2, None, 4, 5]
    assert "PostgreSQL refused the result" in rows[2]["last_error"]
    assert rows[2]["errors"][0]["attempt"] == 1
    await until_true(lambda: events("succeeded", "settler.value") == 4)
    assert events("failed", "settler.value", "bad_result") == 1


async def test_a_result_that_a_constraint_refuses_ends_its_own_job_alone(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    await sql.execute("ALTER TABLE background_jobs ADD CHECK (result <> '\"forbidden\"')")
    rows = await end_together(handlers, sql, start_worker, "mail", [1, "forbidden", 3])
    assert [row["status"] for row in rows] == ["SUCCESS", "FAILED", "SUCCESS"]
    assert "PostgreSQL refused the result" in rows[1]["last_error"]


async def test_a_job_whose_every_end_is_refused_holds_up_nobody(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("cursed")
    async def curse(payload: Any) -> None: ...

    @handlers.handler("mail")
    async def handle(payload: Any) -> None: ...

    await sql.execute(
        "ALTER TABLE background_jobs ADD CHECK (job_type <> 'cursed' OR finished_at IS NULL)"
    )
    cursed, good = await enqueue_batch(sql, [NewJob("cursed"), NewJob("mail")])
    await start_worker()
    assert (await until_ended(sql, good.id))["status"] == "SUCCESS"
    assert await sql.fetchval("SELECT status FROM jobs_live WHERE id = $1", cursed.id) == "RUNNING"


async def test_an_outcome_that_the_driver_cannot_send_ends_its_own_job_alone(
    database: Database, handlers: Registry, sql: Any, settings: Settings
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None: ...

    await enqueue_batch(sql, [NewJob("mail") for _ in range(3)])
    jobs = await claim(database, ["mail"])
    spec = handlers.get("mail")
    assert spec is not None
    links = [database.link(), database.link()]
    changes = Changes(lambda: None)
    settler = Settler(settings, link=links[0], requeue_link=links[1], changes=changes)
    for loop in settler.loops:
        loop.start()
    delays: list[Any] = [30.0, "soon", 30.0]
    for job, delay in zip(jobs, delays, strict=True):
        outcome = Retried(delay, Failure(attempt=1, type="ValueError", message="no"), "error")
        settler.settle(Run(job, spec.policy, 0.0, spec, 0.0), outcome)
    assert await settler.flushed(10)
    for loop in settler.loops:
        await loop.stop()
    for link in links:
        await link.close()
    rows = await sql.fetch("SELECT status, last_error FROM background_jobs ORDER BY id")
    assert [row["status"] for row in rows] == ["PENDING", "FAILED", "PENDING"]
    assert "'soon'" in rows[1]["last_error"]


async def finish_all(link: Link, jobs: list[ClaimedJob]) -> None:
    await store.settle.finish(link, [(job, SUCCEEDED_EMPTY) for job in jobs], max_errors=20)


async def requeue_all(link: Link, jobs: list[ClaimedJob]) -> None:
    await store.settle.requeue(link, [(job, Snoozed(30.0)) for job in jobs], max_errors=20)


async def extend_all(link: Link, jobs: list[ClaimedJob]) -> None:
    await store.leases.extend(link, [job.lease for job in jobs], lease_seconds=30.0)


@pytest.mark.parametrize("write", [finish_all, requeue_all, extend_all])
async def test_whatever_locks_several_jobs_does_so_in_the_order_of_their_ids(
    database: Database,
    sql: Any,
    write: Callable[[Link, list[ClaimedJob]], Coroutine[Any, Any, None]],
) -> None:
    await enqueue_batch(sql, [NewJob("mail") for _ in range(4)])
    jobs = sorted(await claim(database, ["mail"]), key=lambda job: -job.id)
    somebody = await database.connect()
    async with somebody.transaction():
        await somebody.execute("SELECT FROM jobs_live WHERE id = $1 FOR UPDATE", jobs[-1].id)
        link = database.link()
        writing = asyncio.create_task(write(link, jobs))
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        await until(lambda: sql.fetchval(waits + " AND datname = current_database()"))
        free = await sql.fetch("SELECT id FROM jobs_live FOR UPDATE SKIP LOCKED")
    assert {row["id"] for row in free} == {job.id for job in jobs[:-1]}
    await writing
    await link.close()
    await somebody.close()


async def test_looking_up_what_was_settled_before_only_probes(database: Database, sql: Any) -> None:
    await enqueue_batch(sql, [NewJob("mail") for _ in range(20)])
    jobs = await claim(database, ["mail"])
    link = ExplainingLink(database, modes=("generic",))
    await finish_all(link, jobs[:10])
    await sql.execute("VACUUM ANALYZE background_jobs")  # else planned as if there were many
    settled = await store.settle.settled_before(link, [job.lease for job in jobs])
    await link.close()
    assert settled == {job.lease for job in jobs[:10]}
    kinds = {node["Node Type"] for one in link.explained for node in one.nodes()}
    assert not kinds & {"Hash Join", "Merge Join", "Seq Scan"}, link.explained[-1].text


@pytest.mark.whole
async def test_an_outcome_whose_answer_was_lost_is_recorded_once(
    proxy: Proxy,
    proxied: Database,
    handlers: Registry,
    put: Put,
    sql: Any,
    start_worker: StartWorker,
    events: Events,
) -> None:
    @handlers.handler("settler.answer")
    async def handle(payload: Any) -> str:
        return "the marker of this result"

    proxy.lose_answer_to(b"the marker of this result")
    job_id = await put("settler.answer")
    worker = await start_worker(database=proxied)
    await occurs(proxy.lost)
    await until_true(lambda: worker._pipeline.settler.waiting == 0)
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"]) == ("SUCCESS", 1)
    assert events("succeeded", "settler.answer") == 1
    assert events("stale_settle", "settler.answer", "lease_lost") == 0


async def test_a_retry_whose_answer_was_lost_is_recorded_once(
    proxy: Proxy,
    proxied: Database,
    handlers: Registry,
    put: Put,
    sql: Any,
    start_worker: StartWorker,
    events: Events,
) -> None:
    @handlers.handler("settler.retry")
    async def handle(payload: Any) -> None:
        raise ValueError("the marker of this error")

    proxy.lose_answer_to(b"the marker of this error")
    job_id = await put("settler.retry")
    worker = await start_worker(database=proxied)
    await occurs(proxy.lost)
    await until_true(lambda: worker._pipeline.settler.waiting == 0)
    job = await until_failed_once(sql, job_id)
    assert (job["status"], job["attempts"], len(job["errors"])) == ("PENDING", 1, 1)
    assert events("retried", "settler.retry", "error") == 1
    assert events("stale_settle", "settler.retry", "lease_lost") == 0


@pytest.mark.whole
async def test_outcomes_wait_for_a_database_that_is_away(
    proxy: Proxy,
    proxied: Database,
    handlers: Registry,
    sql: Any,
    start_worker: StartWorker,
    events: Events,
) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()
    runs = []

    @handlers.handler("settler.away")
    async def handle(payload: Any) -> None:
        runs.append(payload["n"])
        if len(runs) == 20:
            running.set()
        await go_on.wait()

    await enqueue_batch(sql, [NewJob("settler.away", {"n": n}) for n in range(20)])
    worker = await start_worker(database=proxied)
    await occurs(running)
    await proxy.cut()
    go_on.set()
    await until_true(lambda: worker._pipeline.settler.waiting == 20)
    await proxy.start()
    done = "SELECT count(*) = 20 FROM background_jobs WHERE status = 'SUCCESS' AND attempts = 1"
    await until(lambda: sql.fetchval(done))
    await until_true(lambda: events("succeeded", "settler.away") == 20)
    assert sorted(runs) == list(range(20))


async def test_a_worker_survives_the_end_of_all_its_connections(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None: ...

    worker = await start_worker()
    listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
    listening += " AND datname = current_database()"
    for _ in range(3):
        await until(lambda: sql.fetchval(listening))
        cut = await sql.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert cut >= 3
        job = await until_ended(sql, await put("mail"))
        assert job["status"] == "SUCCESS"
    assert await until(lambda: sql.fetchval(listening)) == 1
    assert worker.alive
