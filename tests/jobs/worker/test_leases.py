"""Leases: extended while a worker lives, lost when it does not, and a fence around every write."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import JobContext, Registry, Snooze
from tests.jobs.claims import claim
from tests.jobs.conftest import Events, Put, StartWorker
from tests.jobs.waiting import occurs, until_ended, until_job, until_true

SHORT: dict[str, Any] = {"lease_seconds": 1.0, "heartbeat_seconds": 0.2}

STEAL = """
UPDATE jobs_live SET lease_token = nextval('background_job_lease_tokens'),
  lease_until = now() + interval '1 hour' WHERE id = $1"""
"""As another worker's claim does it, after this one's lease ran out."""


@pytest.mark.whole
async def test_heartbeats_hold_a_lease_for_longer_than_it_is(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    go_on = asyncio.Event()
    ran = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        ran.append(payload)
        await go_on.wait()

    job_id = await put("mail")
    await start_worker(**SHORT)
    await until_job(sql, job_id, where="lease_until > started_at + interval '2.5 s'")
    go_on.set()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"], len(ran)) == ("SUCCESS", 1, 1)


async def test_a_crash_costs_an_attempt_and_another_worker_goes_on(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker,
    events: Events,
) -> None:  # fmt: skip
    attempts = []

    @handlers.handler("leases.crash")
    async def handle(payload: Any, ctx: JobContext) -> None:
        attempts.append(ctx.attempt)

    job_id = await put("leases.crash")
    await claim(database, ["leases.crash"], lease_seconds=0)
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"], attempts) == ("SUCCESS", 2, [2])
    (entry,) = job["errors"]
    assert (entry["event"], entry["attempt"], entry["worker"]) == ("lease_lost", 1, "gone")
    assert job["last_error"].startswith("LeaseLost: ")
    assert events("rescued", "leases.crash") == 1


async def test_only_the_claim_that_takes_a_lost_lease_over_counts_as_a_rescue(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker,
    events: Events,
) -> None:  # fmt: skip
    running = asyncio.Event()
    attempts = []

    @handlers.handler("leases.given_back")
    async def handle(payload: Any, ctx: JobContext) -> None:
        attempts.append(ctx.attempt)
        running.set()
        if len(attempts) == 1:
            await asyncio.get_running_loop().create_future()

    job_id = await put("leases.given_back")
    await claim(database, ["leases.given_back"], lease_seconds=0)
    worker = await start_worker(shutdown_grace_seconds=0)
    await occurs(running)
    await worker.stop()
    await start_worker()
    assert (await until_ended(sql, job_id))["status"] == "SUCCESS"
    assert attempts == [2, 2]
    assert events("rescued", "leases.given_back") == 1


async def test_a_lease_that_holds_is_not_taken(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker
) -> None:
    ran = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        ran.append(payload["n"])

    held = await put("mail", {"n": 1})
    await claim(database, ["mail"], lease_seconds=60)
    after = await put("mail", {"n": 2})
    await start_worker()
    await until_ended(sql, after)
    assert ran == [2]
    assert await sql.fetchval("SELECT status FROM jobs_live WHERE id = $1", held) == "RUNNING"


async def test_a_job_that_takes_its_workers_down_ends_and_is_not_run_again(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker,
    events: Events,
) -> None:  # fmt: skip
    ran = []

    @handlers.handler("leases.poison")
    async def handle(payload: Any) -> None:
        ran.append(payload)

    job_id = await put("leases.poison", max_retries=100)
    for _ in range(3):
        assert await claim(database, ["leases.poison"], lease_seconds=0)
    await start_worker(max_lost_leases=3)
    job = await until_ended(sql, job_id)
    assert (job["status"], ran) == ("DEAD_LETTER", [])
    assert "stopped or stalled during this job 3 times in a row" in job["last_error"]
    assert [e["event"] for e in job["errors"]] == ["lease_lost"] * 4
    await until_true(lambda: events("dead_lettered", "leases.poison", "poison") == 1)


async def test_lost_leases_that_use_up_the_attempts_end_the_job(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker
) -> None:
    ran = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        ran.append(payload)

    job_id = await put("mail", max_retries=0)
    await claim(database, ["mail"], lease_seconds=0)
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], ran) == ("DEAD_LETTER", [])
    assert "LeaseLost" in job["last_error"]


async def test_an_attempt_that_ends_forgets_the_leases_lost_before_it(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        raise ValueError("an ordinary failure")

    job_id = await put("mail", max_retries=9)
    await claim(database, ["mail"], lease_seconds=0)
    await start_worker()
    job = await until_job(sql, job_id, where="status = 'PENDING' AND attempts = 2")
    assert job["lost_leases"] == 0


async def test_jobs_lost_together_twice_come_back_one_by_one(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker
) -> None:
    ran = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        ran.append(payload["n"])

    for number in range(20):
        await put("mail", {"n": number})
    for _ in range(2):
        assert len(await claim(database, ["mail"], lease_seconds=0, limit=20)) == 20
    await start_worker(lease_seconds=30.0)
    for number in range(20):
        await until_job(sql, number + 1, where="status = 'PENDING' AND lost_leases = 2")
    assert ran == []  # the first is due in three seconds at the earliest
    waits = await sql.fetch(
        "SELECT extract(epoch FROM next_run_at - now()) AS seconds, attempts FROM jobs_live"
    )
    assert {row["attempts"] for row in waits} == {2}
    seconds = [float(row["seconds"]) for row in waits]
    assert all(0 < one <= 60 for one in seconds)
    assert max(seconds) - min(seconds) > 5  # 20 draws of a minute
    await sql.execute("UPDATE jobs_live SET next_run_at = now() WHERE id = 1")
    job = await until_ended(sql, 1)
    assert (job["status"], job["attempts"], ran) == ("SUCCESS", 3, [0])


CRASHING = """
import asyncio, os, sys
from service.db.engine import Database
from service.jobs import Registry, Worker
from service.settings import Settings

async def main():
    settings = Settings(environment="test", jwt_secret="x" * 32, lease_seconds=1,
                        heartbeat_seconds=0.3, poll_min_seconds=0.01)
    handlers = Registry()

    @handlers.handler("mail")
    async def handle(payload):
        os._exit(7)

    await Worker(Database(sys.argv[1], settings), settings, handlers=handlers).start()
    await asyncio.sleep(20)

asyncio.run(main())
"""


@pytest.mark.whole
async def test_the_jobs_of_a_killed_process_are_run_by_another(
    handlers: Registry, put: Put, sql: Any, pg_dsn: str, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None: ...

    job_id = await put("mail")
    command = [sys.executable, "-c", CRASHING, pg_dsn]
    root = Path(__file__).parents[3]
    killed = await asyncio.to_thread(
        subprocess.run, command, cwd=root, timeout=30, check=False, capture_output=True
    )
    assert killed.returncode == 7, killed.stderr
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"], job["errors"][0]["event"]) == (
        "SUCCESS", 2, "lease_lost",
    )  # fmt: skip


# -- the fence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["succeed", "fail", "snooze"])
async def test_an_outcome_under_a_lost_lease_changes_nothing_and_is_counted(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events, end: str
) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()
    name = f"leases.{end}"

    @handlers.handler(name)
    async def handle(payload: Any) -> str:
        running.set()
        await go_on.wait()
        if end == "fail":
            raise ValueError
        if end == "snooze":
            raise Snooze(1)
        return "stale"

    job_id = await put(name)
    await start_worker()  # heartbeats are 10 s away
    await occurs(running)
    await sql.execute(STEAL, job_id)
    before = await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)
    go_on.set()
    await until_true(lambda: events("stale_settle", name, "lease_lost") == 1)
    assert await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id) == before
    assert events("succeeded", name) + events("retried", name, "error") == 0
    assert events("snoozed", name) == 0


async def test_a_heartbeat_that_finds_the_lease_lost_cancels_the_handler(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    running, cancelled = asyncio.Event(), asyncio.Event()
    contexts: list[JobContext] = []

    @handlers.handler("leases.beat")
    async def handle(payload: Any, ctx: JobContext) -> None:
        contexts.append(ctx)
        running.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    job_id = await put("leases.beat")
    await start_worker(**SHORT)
    await occurs(running)
    await sql.execute(STEAL, job_id)
    before = await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)
    await occurs(cancelled)
    assert contexts[0].cancelled
    assert await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id) == before
    assert events("stale_heartbeat", "leases.beat", "lease_lost") == 1
    await until_true(lambda: events("stale_settle", "leases.beat", "lease_lost") == 1)


async def test_progress_under_a_lost_lease_is_refused(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    running, go_on, told = asyncio.Event(), asyncio.Event(), asyncio.Event()
    answers = []

    @handlers.handler("mail")
    async def handle(payload: Any, ctx: JobContext) -> None:
        running.set()
        await go_on.wait()
        answers.append(await ctx.progress(0.5))
        told.set()

    job_id = await put("mail")
    await start_worker()
    await occurs(running)
    await sql.execute(STEAL, job_id)
    go_on.set()
    await occurs(told)
    assert answers == [False]
    assert events("stale_progress", "mail", "lease_lost") == 1
    assert await sql.fetchval("SELECT progress FROM jobs_live WHERE id = $1", job_id) is None


@pytest.mark.whole
async def test_a_handler_whose_lease_ended_during_a_suspend_is_cancelled(
    handlers: Registry, put: Put, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, cancelled = asyncio.Event(), asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        running.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    await put("mail")
    await start_worker(lease_seconds=60, heartbeat_seconds=20, shutdown_grace_seconds=0)
    await occurs(running)
    clock = time.clock_gettime

    def after_a_minute(which: int) -> float:
        # A suspended machine's monotonic clock stands still, and so does the event loop's.
        return clock(which) + (61 if which == time.CLOCK_BOOTTIME else 0)

    monkeypatch.setattr(time, "clock_gettime", after_a_minute)
    await occurs(cancelled, seconds=10)


@pytest.mark.whole
async def test_a_lease_that_cannot_be_extended_cancels_its_handler_in_time(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    lease_seconds = 3.0
    running, cancelled = asyncio.Event(), asyncio.Event()
    times = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        times.append(time.monotonic())
        running.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            times.append(time.monotonic())
            cancelled.set()

    job_id = await put("mail")
    await start_worker(lease_seconds=lease_seconds, heartbeat_seconds=1.0, shutdown_grace_seconds=0)
    await occurs(running)
    async with sql.transaction():
        # The row is locked: heartbeats hang, as they do on a network that swallows packets.
        await sql.execute("SELECT 1 FROM jobs_live WHERE id = $1 FOR UPDATE", job_id)
        await occurs(cancelled)
    started, stopped = times[:2]
    assert stopped - started < lease_seconds
    job = await until_job(sql, job_id, where="attempts = 1 AND status = 'RUNNING'")
    assert job["errors"] is None


@pytest.mark.whole
async def test_an_attempt_interrupted_by_a_missing_heartbeat_does_not_count(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    running, cancelled = asyncio.Event(), asyncio.Event()
    attempts = []

    @handlers.handler("mail", max_retries=0)
    async def handle(payload: Any, ctx: JobContext) -> None:
        attempts.append(ctx.attempt)
        if cancelled.is_set():
            return
        running.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.set()
            raise OSError("the driver was interrupted") from None

    job_id = await put("mail")
    await start_worker(lease_seconds=3.0, heartbeat_seconds=1.0)
    await occurs(running)
    async with sql.transaction():
        await sql.execute("SELECT 1 FROM jobs_live WHERE id = $1 FOR UPDATE", job_id)
        await occurs(cancelled)
    job = await until_ended(sql, job_id)
    assert (job["status"], job["errors"], attempts) == ("SUCCESS", None, [1, 1])
