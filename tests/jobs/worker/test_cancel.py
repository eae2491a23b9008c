"""A running job whose cancel somebody asks for: heard of, stopped, recorded."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from service.audit import Actor
from service.db import schema
from service.db.engine import Database
from service.errors import Conflict
from service.jobs import JobContext, PermanentError, Registry, RetryAfter, Snooze, cancel_job
from service.jobs.core.job import JobId
from service.jobs.run_once import process_due_jobs
from service.settings import DEFAULT_SCHEMA
from tests.jobs.conftest import Events, Put, Quick, StartWorker
from tests.jobs.waiting import until_ended, until_job, until_true

ANN = Actor("ann")
CHANNEL = schema.channel(DEFAULT_SCHEMA)


async def ask(database: Database, job_id: JobId, *, reason: str | None = None) -> str:
    """Ask for the cancel of a job; its status then."""
    async with database.sessions.begin() as session:
        job = await cancel_job(session, job_id, actor=ANN, reason=reason)
        return job.status


async def test_a_running_handler_is_stopped_within_a_second(
    handlers: Registry,
    put: Put,
    sql: Any,
    database: Database,
    start_worker: StartWorker,
    events: Events,
) -> None:
    running = asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        running.set()
        await asyncio.sleep(60)

    job_id = await put("mail")
    await start_worker()
    await running.wait()
    began = time.monotonic()
    assert await ask(database, job_id, reason="withdrawn") == "RUNNING"
    job = await until_ended(sql, job_id)
    assert time.monotonic() - began < 1.0
    assert (job["status"], job["attempts"], job["result"]) == ("CANCELLED", 1, None)
    assert (job["errors"], job["last_error"], job["lease_until"]) == (None, None, None)
    report = job["cancel"]
    assert (report["by"], report["reason"], report["how"]) == ("ann", "withdrawn", "stopped")
    times = [
        datetime.fromisoformat(report[f"{name}_at"]) for name in ("requested", "seen", "ended")
    ]
    assert times == sorted(times)
    assert times[-1] <= job["finished_at"]
    await until_true(lambda: events("cancelled", "mail", "stopped") == 1)
    assert events("cancel_requested", "mail") == 1


async def test_without_notifications_the_next_heartbeat_tells(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    running = asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        running.set()
        await asyncio.sleep(60)

    job_id = await put("mail")
    await start_worker(database_listen=False, heartbeat_seconds=0.3, lease_seconds=1.0)
    await running.wait()
    # As another process that cannot notify: nothing here hears of it.
    await sql.execute("UPDATE jobs_live SET cancel = '{}' WHERE id = $1", job_id)
    job = await until_ended(sql, job_id)
    assert (job["status"], job["cancel"]["how"]) == ("CANCELLED", "stopped")


async def returns() -> object:
    return "done"


async def fails() -> object:
    raise LookupError("lost")


async def is_hopeless() -> object:
    raise PermanentError("no")


async def asks_for_later() -> object:
    raise RetryAfter(0)


async def snoozes() -> object:
    raise Snooze(0)


ENDS: list[Callable[[], Awaitable[object]]] = [returns, fails, is_hopeless, asks_for_later, snoozes]


@pytest.mark.parametrize("end", ENDS)
async def test_whatever_a_handler_does_after_it_was_told_its_job_is_cancelled(
    end: Callable[[], Awaitable[object]],
    handlers: Registry,
    put: Put,
    sql: Any,
    database: Database,
    start_worker: StartWorker,
) -> None:
    running = asyncio.Event()

    @handlers.handler("mail", max_retries=5)
    async def handle(payload: Any) -> object:
        running.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return await end()

    job_id = await put("mail")
    await start_worker()
    await running.wait()
    await ask(database, job_id)
    job = await until_ended(sql, job_id)
    assert (job["status"], job["result"], job["attempts"]) == ("CANCELLED", None, 1)
    assert job["cancel"]["how"] == ("returned" if end is returns else "stopped")


@pytest.mark.parametrize("end", ENDS)
async def test_whatever_a_handler_does_before_it_could_be_told_its_job_is_cancelled(
    end: Callable[[], Awaitable[object]],
    handlers: Registry,
    put: Put,
    sql: Any,
    database: Database,
    start_worker: StartWorker,
    events: Events,
) -> None:
    @handlers.handler("mail", max_retries=5)
    async def handle(payload: Any) -> object:
        async with database.sessions.begin() as session:
            await session.execute(
                text("UPDATE jobs_live SET cancel = '{}' WHERE id = :id"), {"id": job_id}
            )
        return await end()

    job_id = await put("mail")
    await start_worker(heartbeat_seconds=10)
    job = await until_ended(sql, job_id)
    assert (job["status"], job["result"], job["attempts"]) == ("CANCELLED", None, 1)
    how = "failed" if end in {fails, is_hopeless, asks_for_later} else "returned"
    assert (job["cancel"]["how"], job["cancel"]["seen_at"]) == (how, None)
    assert len(job["errors"] or []) == (how == "failed")
    await until_true(lambda: events("cancelled", "mail", how) == 1)
    assert events("succeeded", "mail") == 0


async def test_a_plain_function_sees_it_in_its_context(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker
) -> None:
    running, seen = threading.Event(), threading.Event()

    @handlers.handler("mail")
    def handle(payload: Any, ctx: JobContext) -> None:
        running.set()
        while not ctx.cancelled:
            time.sleep(0.01)
        seen.set()

    job_id = await put("mail")
    await start_worker()
    await until_true(running.is_set)
    await ask(database, job_id)
    job = await until_ended(sql, job_id)
    assert seen.is_set()
    assert (job["status"], job["cancel"]["how"]) == ("CANCELLED", "stopped")


async def test_after_the_grace_the_end_is_recorded_without_the_handler(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker
) -> None:
    running, release = asyncio.Event(), asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> str:
        running.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    job_id = await put("mail")
    worker = await start_worker(cancel_grace_seconds=0.2)
    await running.wait()
    await ask(database, job_id)
    job = await until_ended(sql, job_id)
    assert (job["status"], job["cancel"]["how"]) == ("CANCELLED", "ignored")
    assert worker.slots.used == 1
    release.set()
    await until_true(lambda: worker.slots.used == 0)
    after = await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)
    assert (after["status"], after["result"]) == ("CANCELLED", None)


async def test_a_job_whose_worker_died_is_not_run_again(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    runs = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        runs.append(payload)

    job_id = await put("mail")
    await sql.execute(
        "UPDATE jobs_live SET status = 'RUNNING', attempts = 1, lease_token = 1, cancel = '{}',"
        " lease_until = now() - interval '1 second' WHERE id = $1",
        job_id,
    )
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["cancel"]["how"], runs) == ("CANCELLED", "not_started", [])
    assert job["attempts"] == 1, "the claim that ended it is no attempt"


async def test_a_job_whose_worker_was_lost_is_cancelled_at_once(
    put: Put, sql: Any, database: Database
) -> None:
    """A paused queue would keep it from being rescued."""
    job_id = await put("mail")
    for lease, status in (("+ interval '1 minute'", "RUNNING"), ("- interval '1 s'", "CANCELLED")):
        await sql.execute(
            "UPDATE jobs_live SET status = 'RUNNING', attempts = 1, lease_token = 1,"
            f" lease_until = now() {lease} WHERE id = $1",
            job_id,
        )
        assert await ask(database, job_id, reason="first") == status
    job = await until_ended(sql, job_id)
    assert (job["cancel"]["how"], job["attempts"]) == ("not_started", 1)


async def test_a_job_that_went_back_before_it_was_heard_of_is_not_run_again(
    handlers: Registry, put: Put, sql: Any, database: Database, quick: Quick
) -> None:
    """As a worker of the version before leaves it, or a claim whose answer was lost."""
    runs = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        runs.append(payload)

    job_id = await put("mail")
    await sql.execute("UPDATE jobs_live SET cancel = '{}' WHERE id = $1", job_id)
    await process_due_jobs(database, settings=quick(), handlers=handlers)
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"], runs) == ("CANCELLED", 0, [])


async def test_a_stop_of_the_worker_leaves_it_cancelled(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker
) -> None:
    running = asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        running.set()
        for _ in range(2):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                running.clear()

    job_id = await put("mail")
    worker = await start_worker(shutdown_grace_seconds=0)
    await running.wait()
    await ask(database, job_id)
    await until_true(lambda: not running.is_set())
    await worker.stop()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["cancel"]["how"]) == ("CANCELLED", "ignored")


async def test_to_ask_again_changes_nothing_and_a_job_that_ended_is_refused(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker
) -> None:
    running, stopping = asyncio.Event(), asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        running.set()
        try:
            await asyncio.sleep(60)
        finally:
            await stopping.wait()

    job_id = await put("mail")
    await start_worker()
    await running.wait()
    await ask(database, job_id, reason="first")
    before = await until_job(sql, job_id, where="cancel IS NOT NULL")
    assert await ask(database, job_id, reason="second") == "RUNNING"
    after = await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)
    assert after["cancel"] == before["cancel"]
    stopping.set()
    await until_ended(sql, job_id)
    with pytest.raises(Conflict, match="is CANCELLED: only PENDING and RUNNING"):
        await ask(database, job_id)
    assert await sql.fetchval("SELECT count(*) FROM audit_log WHERE action = 'job.cancel'") == 1


async def test_a_pending_job_has_the_report_too(put: Put, sql: Any, database: Database) -> None:
    job_id = await put("mail")
    assert await ask(database, job_id, reason="withdrawn") == "CANCELLED"
    job = await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)
    report = job["cancel"]
    assert (report["by"], report["reason"], report["how"]) == ("ann", "withdrawn", "not_started")
    assert datetime.fromisoformat(report["ended_at"]) <= datetime.now(UTC)


async def test_a_notification_that_anybody_sends_stops_nothing(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    running, release = asyncio.Event(), asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        running.set()
        await release.wait()

    job_id = await put("mail")
    await start_worker()
    await running.wait()
    lease = await sql.fetchval("SELECT lease_until FROM jobs_live WHERE id = $1", job_id)
    await sql.execute(
        "SELECT pg_notify($1, $2)", CHANNEL, f'{{"kind": "cancel", "v": 1, "ids": [{job_id}]}}'
    )
    await until_job(sql, job_id, where=f"lease_until > '{lease.isoformat()}'")  # it looked
    release.set()
    assert (await until_ended(sql, job_id))["status"] == "SUCCESS"


# -- what others wait for -------------------------------------------------------------------------


async def test_the_permit_of_a_cancelled_job_goes_to_the_next(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker
) -> None:
    running: list[int] = []

    @handlers.handler("mail", max_running_per_key=1)
    async def handle(payload: Any) -> None:
        running.append(payload["n"])
        if payload["n"] == 0:
            await asyncio.sleep(60)

    first = await put("mail", {"n": 0}, concurrency_key="k")
    await start_worker()
    await until_true(lambda: running == [0])
    second = await put("mail", {"n": 1}, concurrency_key="k")
    await until_job(sql, second, where="held_for IS NOT NULL")
    await ask(database, first)
    assert (await until_ended(sql, second))["status"] == "SUCCESS"
    assert (await until_ended(sql, first))["status"] == "CANCELLED"
    await until_job(sql, first, where="(SELECT sum(running) FROM job_permits) = 0")


async def test_jobs_that_wait_for_a_cancelled_one_are_cancelled(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker
) -> None:
    running = asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        running.set()
        await asyncio.sleep(60)

    parent = await put("mail")
    await start_worker()
    await running.wait()
    child = await put("mail", after=[parent])
    await ask(database, parent)
    assert (await until_ended(sql, child))["status"] == "CANCELLED"
