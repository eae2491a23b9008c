"""A paused queue starts nothing, whatever else goes on, and loses nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.statement_counter import StatementCounter
from service.audit import Actor
from service.db.engine import Database
from service.errors import Conflict, InvalidInput
from service.jobs import NewJob, Registry, Worker, enqueue_batch, process_due_jobs, store
from service.jobs.flow import queue_settings
from service.jobs.notify.messages import Policies, encode
from service.jobs.queues import configure_queue, pause_queue, resume_queue
from service.jobs.read.attention import find_unserved
from tests.jobs.conftest import Put, Quick, StartWorker
from tests.jobs.notify.test_notify import LISTENING
from tests.jobs.waiting import occurs, until, until_ended, until_failed_once, until_true

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
UNTOLD = "INSERT INTO queues (name, paused_at) VALUES ($1, now())"
"""By SQL: no process is notified."""

Change = Callable[..., Any]


@pytest.fixture
def pause(database: Database) -> Change:
    """Pause a queue and commit."""

    async def pause(name: str, **values: Any) -> None:
        async with database.sessions.begin() as session:
            await pause_queue(session, name, **values)

    return pause


@pytest.fixture
def resume(database: Database) -> Change:
    """Resume a queue and commit."""

    async def resume(name: str) -> None:
        async with database.sessions.begin() as session:
            await resume_queue(session, name)

    return resume


@pytest.fixture
def ran(handlers: Registry) -> list[Any]:
    """The payloads of the jobs of the type `mail` that ran."""
    payloads: list[Any] = []
    handlers.handler("mail")(payloads.append)
    return payloads


@pytest.fixture
async def session(database: Database) -> AsyncIterator[AsyncSession]:
    async with database.sessions.begin() as session:
        yield session


async def until_looked(sql: Any, put: Put, times: int = 2) -> None:
    """Wait until the workers have claimed: jobs of another queue, each after the one before, have ended."""
    for _ in range(times):
        await until_ended(sql, await put("mail", "other", queue="other"))


async def test_a_paused_queue_starts_nothing_until_it_is_resumed(
    ran: list[Any], put: Put, sql: Any, start_worker: StartWorker, pause: Change, resume: Change
) -> None:
    await pause("q")
    await start_worker()
    job_id = await put("mail", "paused", queue="q", priority=0)
    await until_looked(sql, put)
    assert ran == ["other"] * 2
    await resume("q")
    assert (await until_ended(sql, job_id))["attempts"] == 1


async def test_what_runs_goes_on_and_more_can_be_enqueued(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, pause: Change, resume: Change
) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    @handlers.handler("slow")
    async def slow(payload: Any) -> None:
        running.set()
        await go_on.wait()

    await start_worker()
    first = await put("slow", queue="q")
    await occurs(running)
    await pause("q")
    second = await put("slow", queue="q")
    go_on.set()
    assert (await until_ended(sql, first))["status"] == "SUCCESS"
    assert await sql.fetchval("SELECT attempts FROM jobs_live WHERE id = $1", second) == 0
    await resume("q")
    await until_ended(sql, second)


@pytest.mark.whole
async def test_a_pause_and_its_end_hold_although_nobody_is_notified(
    ran: list[Any], put: Put, sql: Any, start_worker: StartWorker
) -> None:
    """A worker that polls once a minute, and hears of nothing: it reads the table each second."""
    worker = await start_worker(database_listen=False)
    await until_looked(sql, put)
    await sql.execute(UNTOLD, "q")
    await until_true(lambda: "q" in worker.slots.queues.settings.paused, seconds=5)
    job_id = await put("mail", "paused", queue="q")
    await until_looked(sql, put)
    assert "paused" not in ran
    await sql.execute("DELETE FROM queues")
    await until_ended(sql, job_id)


@pytest.mark.whole
async def test_the_end_of_a_pause_is_noticed_by_a_worker_that_hardly_ever_polls(
    ran: list[Any], put: Put, sql: Any, start_worker: StartWorker, pause: Change
) -> None:
    await pause("q")
    job_id = await put("mail", queue="q")
    await start_worker(database_listen=False, poll_min_seconds=10, poll_max_seconds=60)
    await until_looked(sql, put, times=1)
    await sql.execute("DELETE FROM queues")
    async with asyncio.timeout(5):
        await until_ended(sql, job_id)


async def test_a_pause_holds_for_the_next_claim_once_it_is_told(
    ran: list[Any], put: Put, sql: Any, start_worker: StartWorker, pause: Change
) -> None:
    await start_worker()
    await until_looked(sql, put)
    await pause("q")
    await put("mail", "paused", queue="q")
    await until_looked(sql, put)
    assert "paused" not in ran


async def test_a_notification_of_another_process_alone_makes_a_pause_and_its_end_hold(
    ran: list[Any], put: Put, sql: Any, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        queue_settings, "MAX_AGE_SECONDS", 600.0
    )  # the table is not read for itself
    worker = await start_worker()
    await until(lambda: sql.fetchval(LISTENING))
    await until_looked(sql, put, times=1)
    await sql.execute(UNTOLD, "q")
    await store.notify.send(sql, encode(Policies()), channel="finmind_jobs")
    await until_true(lambda: "q" in worker.slots.queues.settings.paused)
    job_id = await put("mail", "paused", queue="q")
    await until_looked(sql, put)
    assert "paused" not in ran
    await sql.execute("DELETE FROM queues")
    await store.notify.send(sql, encode(Policies()), channel="finmind_jobs")
    await until_ended(sql, job_id)


async def test_orphans_of_a_paused_queue_wait_and_hide_no_others(
    ran: list[Any], put: Put, sql: Any, start_worker: StartWorker, pause: Change, resume: Change
) -> None:
    await pause("q")
    orphans = [await put("mail", n, queue="q", priority=0, run_at=LONG_AGO) for n in range(20)]
    await sql.execute(
        "UPDATE jobs_live SET status = 'RUNNING', attempts = 1, lease_token = id, worker_id = 1,"
        " started_at = now(), lease_until = now() - interval '1 minute'"
    )
    await start_worker(worker_concurrency=2, claim_batch_size=2)
    await until_looked(sql, put, times=5)
    assert await sql.fetchval("SELECT count(*) FROM jobs_live WHERE attempts = 1") == 20
    await resume("q")
    for job_id in orphans:
        assert (await until_ended(sql, job_id))["attempts"] == 2


async def test_a_retry_of_a_paused_queue_waits(
    handlers: Registry, ran: list[Any], put: Put, sql: Any, start_worker: StartWorker,
    pause: Change, resume: Change,
) -> None:  # fmt: skip
    @handlers.handler("fails", max_retries=1)
    def fail(payload: Any) -> None:
        raise RuntimeError("no")

    await start_worker(backoff_base_seconds=0.2)
    job_id = await put("fails", queue="q")
    await until_failed_once(sql, job_id)
    await pause("q")
    await until(lambda: sql.fetchval("SELECT next_run_at < now() FROM jobs_live"))
    await until_looked(sql, put)
    assert await sql.fetchval("SELECT attempts FROM jobs_live WHERE id = $1", job_id) == 1
    await resume("q")
    assert (await until_ended(sql, job_id))["attempts"] == 2


async def test_a_pass_leaves_paused_queues_alone(
    database: Database, handlers: Registry, ran: list[Any], put: Put, sql: Any, quick: Quick,
    pause: Change, resume: Change,
) -> None:  # fmt: skip
    await pause("q")
    await put("mail", "paused", queue="q", priority=0)
    await put("nobody.serves.it", queue="q")
    await put("mail", "other")
    summary = await process_due_jobs(database, settings=quick(), handlers=handlers)
    assert (summary.processed, ran) == (1, ["other"])
    await resume("q")
    summary = await process_due_jobs(database, settings=quick(), handlers=handlers)
    assert (summary.processed, summary.failed) == (2, 1)


async def test_a_job_of_a_paused_queue_waits_for_no_worker(
    put: Put, sql: Any, start_worker: StartWorker, pause: Change, resume: Change
) -> None:
    await pause("q")
    paused = await put("unserved", queue="q", run_at=LONG_AGO)
    await start_worker(unknown_type_grace_seconds=0)
    await until_ended(sql, await put("unserved", run_at=LONG_AGO))
    assert await sql.fetchval("SELECT status FROM jobs_live WHERE id = $1", paused) == "PENDING"
    await resume("q")
    assert (await until_ended(sql, paused))["status"] == "FAILED"


async def test_what_waits_in_a_paused_queue_is_not_told_as_waiting_for_a_worker(
    session: AsyncSession, sql: Any, put: Put, pause: Change
) -> None:
    await sql.execute("INSERT INTO served_types VALUES ('mail', now())")
    await put("mail", queue="q", run_at=LONG_AGO)
    assert [one.jobs for one in await find_unserved(session, {})] == [1]
    await pause("q")
    assert await find_unserved(session, {}) == []


async def test_the_leader_shows_which_queues_are_paused(
    start_worker: StartWorker, pause: Change, resume: Change
) -> None:
    def shown() -> float | None:
        return REGISTRY.get_sample_value("finmind_queue_paused", {"queue": "q"})

    await pause("q")
    await start_worker()
    await until_true(lambda: shown() == 1)
    await resume("q")
    await until_true(lambda: shown() is None)


async def test_the_leader_shows_the_limits_of_queues_and_their_permits_in_use(
    start_worker: StartWorker, database: Database, sql: Any
) -> None:
    def shown(name: str) -> float | None:
        return REGISTRY.get_sample_value(f"finmind_queue_{name}", {"queue": "q"})

    async with database.sessions.begin() as session:
        await configure_queue(session, "q", max_running=40)
    await start_worker()
    await until_true(lambda: (shown("max_running"), shown("permits_used")) == (40, 0))
    async with database.sessions.begin() as session:
        await configure_queue(session, "q", max_running=None)
    await until_true(lambda: shown("max_running") is shown("permits_used") is None)


@pytest.mark.whole
async def test_a_worker_with_paused_jobs_alone_is_as_idle_as_one_without(
    handlers: Registry, ran: list[Any], pg_dsn: str, sql: Any, quick: Quick, pause: Change
) -> None:  # fmt: skip
    await pause("q")
    await enqueue_batch(sql, [NewJob("mail", queue="q") for _ in range(500)])
    async with StatementCounter(pg_dsn) as counting:
        settings = quick(poll_max_seconds=1, maintenance_seconds=60, sweep_seconds=5)
        database = Database(counting.dsn, settings)
        worker = Worker(database, settings, handlers=handlers)
        await worker.start()
        sent, read = counting.executed, store.queues.QUEUE_SETTINGS.sql
        await until_true(lambda: sent[read] >= 2)
        before = sent.total()
        await until_true(lambda: sent[read] >= 4)
        # In two seconds: what is paused, what limits there are, what is held, which lanes there are.
        assert sent.total() - before <= 12
        assert sent[store.claim.CLAIM.sql] == 0
        await worker.stop()
        await database.close()


async def test_since_when_a_queue_is_paused_stays_when_it_is_paused_again(
    session: AsyncSession,
) -> None:
    first = await pause_queue(session, "q", actor=Actor("a"), reason="one")
    again = await pause_queue(session, "q", actor=Actor("b"), reason="two")
    assert again == (first.since, "b", "two")
    assert await resume_queue(session, "q") == again
    assert await resume_queue(session, "q") is None


@pytest.mark.parametrize("name", ["", "x" * 101, "ä" * 51, "a\0"])
async def test_a_name_that_no_queue_can_have_is_refused(session: AsyncSession, name: str) -> None:
    with pytest.raises(InvalidInput, match="expected 1 to 100 bytes"):
        await pause_queue(session, name)


async def test_no_more_queues_are_set_than_workers_read(
    session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.queues, "MAX_SET", 2)
    for name in ("a", "b", "b"):
        await pause_queue(session, name)
    with pytest.raises(Conflict, match="queues, and for no more can it be"):
        await pause_queue(session, "c")
