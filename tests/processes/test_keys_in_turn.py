"""In a queue whose keys take turns a key with a few jobs starts them in whatever process, beside a backlog."""

import asyncio

import pytest

from service.db.engine import Database
from service.jobs import NewJob, enqueue_batch
from service.jobs.store.queues import IN_FORCE_SECONDS
from tests.processes.fleet import Fleet, until
from tests.processes.test_queue_limits import change
from tests.processes.workload import enqueue_all

BACKLOG = 20_000
FEW = 10
JOB = {"seconds": 0.02, "fails": False}


@pytest.mark.timeout(150)
async def test_a_key_with_ten_jobs_starts_them_beside_one_with_a_backlog(
    fleet: Fleet, database: Database, pg_dsn: str
) -> None:
    first, *_ = await fleet.start(3, pg_dsn, WORKER_CONCURRENCY=4, DATABASE_LISTEN=False)
    connection = await database.connect()
    queue = await change(first, key_fairness=True)
    assert queue["key_fairness"] is True
    await asyncio.sleep(IN_FORCE_SECONDS)  # the promise itself
    await enqueue_all(pg_dsn, (job("big", number) for number in range(BACKLOG)))
    await fleet.noted("start", 100)
    before = len(fleet.ledger.of("start"))
    jobs = await enqueue_batch(connection, [job("small", number) for number in range(FEW)])
    few = {one.id for one in jobs}

    async def starts_until_all_have() -> int:
        """How many starts there were until the last of the few; 0 where some have not started."""
        starts = [one.job_id for one in fleet.ledger.of("start")]
        places = [place for place, job_id in enumerate(starts) if job_id in few]
        return places[-1] if len(places) == FEW else 0

    last = await until(starts_until_all_have, 60, what="starts of the few")
    assert last - before < BACKLOG / 10
    await connection.close()


def job(key: str, number: int) -> NewJob:
    return NewJob("test.flaky", JOB | {"number": number}, queue="q", concurrency_key=key)
