"""The claim of queues with limits: it grants permits and holds jobs by itself."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.db.connection import Link
from service.db.engine import Database
from service.jobs import NewJob, enqueue_batch, store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import LANE_START, Lane, LaneRequest
from service.jobs.core.outcomes import SUCCEEDED_EMPTY

LANE = LaneRequest(Lane("default", 2), LANE_START, 100)
ROWS = """
SELECT status, attempts, held_for, permits, worker_id IS NOT NULL AS leased, isfinite(next_run_at) AS due
FROM jobs_live ORDER BY id
"""
RUNNING = "SELECT key, running FROM job_permits ORDER BY key"
MAKE = "INSERT INTO job_permits (key) VALUES ('key:c'), ('queue:default')"


@pytest.fixture
async def link(database: Database) -> AsyncIterator[Link]:
    made = database.link()
    yield made
    await made.close()


async def take(link: Link, *, limit: int = 100) -> list[ClaimedJob]:
    return await store.claim_limited.take(
        link, [LANE._replace(limit=limit)], ["mail"], type_limits={"mail": 2}, limit=limit,
        lease_seconds=30, worker_id=1, max_errors=9,
    )  # fmt: skip


async def test_it_grants_permits_with_the_lease_and_holds_the_rest(link: Link, sql: Any) -> None:
    await sql.execute(MAKE)
    await enqueue_batch(sql, [NewJob("mail", concurrency_key="c")] * 3 + [NewJob("mail")])
    jobs = sorted(await take(link), key=lambda job: job.id)
    assert [(job.permits, job.held_for) for job in jobs] == [
        (["key:c"], None),
        (["key:c"], None),
        (None, "key:c"),
        (None, None),
    ]
    assert [tuple(row) for row in await sql.fetch(ROWS)] == [
        ("RUNNING", 1, None, ["key:c"], True, True),
        ("RUNNING", 1, None, ["key:c"], True, True),
        ("PENDING", 0, "key:c", None, False, False),
        ("RUNNING", 1, None, None, True, True),
    ]
    assert await take(link) == [], "what is held is out of reach of claims"


async def test_what_it_cannot_decide_it_claims_without_permits(link: Link, sql: Any) -> None:
    await enqueue_batch(sql, [NewJob("mail", concurrency_key="c")] * 3)
    jobs = await take(link)
    assert [(job.permits, job.held_for) for job in jobs] == [(None, None)] * 3
    await store.admission.make_permits(link, jobs)
    answers = await store.admission.admit(link, jobs, key_limits=[2, 2, 2])
    assert sorted(bool(answer.admitted) for answer in answers.values()) == [False, True, True]


async def test_claims_and_settles_at_once_keep_limits_and_counts(
    database: Database, sql: Any
) -> None:
    await sql.execute(MAKE)
    await sql.execute("INSERT INTO queues (name, max_running) VALUES ('default', 3)")
    await enqueue_batch(sql, [NewJob("mail", concurrency_key="c")] * 100)
    await enqueue_batch(sql, [NewJob("mail")] * 100)
    running: set[int] = set()
    most = 0

    async def work() -> None:
        nonlocal most
        link = database.link()
        for _ in range(20):
            jobs = [job for job in await take(link, limit=5) if job.held_for is None]
            running.update(job.id for job in jobs)
            most = max(most, len(running))
            await asyncio.sleep(0.002)  # others claim meanwhile
            running.difference_update(job.id for job in jobs)
            await store.settle.finish(link, [(job, SUCCEEDED_EMPTY) for job in jobs], max_errors=9)
        await link.close()

    await asyncio.gather(*(work() for _ in range(4)))
    assert 1 <= most <= 3
    assert {row["running"] for row in await sql.fetch(RUNNING)} == {0}
