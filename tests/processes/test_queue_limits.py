"""A limit that is changed in one process holds in all of them."""

import asyncio
from typing import Any

import httpx
import jwt
import pytest

from service.db.engine import Database
from service.jobs import NewJob
from service.jobs.store.queues import IN_FORCE_SECONDS
from tests.conftest import TEST_SECRET
from tests.processes.fleet import Fleet, Replica, until
from tests.processes.workload import all_succeed, enqueue_all

JOBS = 24
STARTED = "SELECT count(*) FROM background_jobs WHERE queue = 'q' AND attempts > 0"


@pytest.mark.timeout(150)
@pytest.mark.parametrize("listen", [True, False], ids=["notified", "polling"])
async def test_a_limit_that_is_changed_through_one_process_holds_in_all(
    fleet: Fleet, database: Database, pg_dsn: str, listen: bool
) -> None:
    first, second, third = await fleet.start(
        3, pg_dsn, WORKER_CONCURRENCY=10, DATABASE_LISTEN=listen
    )
    connection = await database.connect()
    await change(first, max_running=3)
    await asyncio.sleep(IN_FORCE_SECONDS)  # the promise itself
    await enqueue_all(pg_dsn, (NewJob("test.gated", queue="q") for _ in range(JOBS)))
    await running(fleet, 3)
    await change(second, max_running=5)
    await running(fleet, 5)
    await change(third, max_running=None)
    await fleet.noted("start", JOBS)
    fleet.ledger.open_gate()
    await all_succeed(connection, JOBS, 30)
    assert await connection.fetchval("SELECT COALESCE(sum(running), 0) FROM job_permits") == 0
    await connection.close()


@pytest.mark.timeout(150)
async def test_nothing_of_a_drained_queue_starts_in_any_process(
    fleet: Fleet, database: Database, pg_dsn: str
) -> None:
    first, second, third = await fleet.start(3, pg_dsn, WORKER_CONCURRENCY=5, DATABASE_LISTEN=False)
    connection = await database.connect()
    await enqueue_all(pg_dsn, (NewJob("test.gated", queue="q") for _ in range(JOBS)))
    await fleet.noted("start", 15)
    assert (await change(first, paused=True))["drained"] is False
    await asyncio.sleep(IN_FORCE_SECONDS)
    assert (await change(second))["drained"] is False  # 15 jobs run
    fleet.ledger.open_gate()

    async def drained() -> bool:
        return bool((await change(third))["drained"])

    await until(drained, 20, what="drained queue")
    assert await connection.fetchval(STARTED) == 15
    await enqueue_all(pg_dsn, (NewJob("test.gated", queue="other") for _ in range(30)))
    await fleet.noted("end", 15 + 30)
    assert await connection.fetchval(STARTED) == 15
    await change(third, paused=False)
    await all_succeed(connection, JOBS + 30, 30)
    await connection.close()


async def running(fleet: Fleet, limit: int) -> None:
    """Wait until that many jobs have started; within the next seconds no more do."""
    await fleet.noted("start", limit)
    await asyncio.sleep(IN_FORCE_SECONDS)
    assert len(fleet.ledger.of("start")) == limit


async def change(replica: Replica, **change: int | None) -> dict[str, Any]:
    """Change the queue by the API of this process; the queue."""
    token = jwt.encode({"sub": "olga", "role": "operator", "exp": 4_000_000_000}, TEST_SECRET)
    async with httpx.AsyncClient(base_url=replica.url, timeout=10) as client:
        answer = await client.patch(
            "/queues/q", json=change, headers={"authorization": f"Bearer {token}"}
        )
    assert answer.status_code == 200, answer.text
    queue: dict[str, Any] = answer.json()
    return queue
