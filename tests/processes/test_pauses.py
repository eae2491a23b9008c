"""A pause holds in every process: for what comes, and for what a dead replica leaves behind."""

import asyncpg
import pytest

from service.db.engine import Database
from service.jobs import NewJob
from service.jobs.queues import pause_queue, resume_queue
from tests.processes.fleet import Fleet, Replica, until
from tests.processes.workload import all_succeed, enqueue_all

ORPHANS = """
SELECT count(*) FILTER (WHERE j.attempts = 2), count(*) FROM background_jobs j
WHERE j.queue = $1 AND j.id = ANY ($2::bigint[])"""


@pytest.mark.timeout(150)
@pytest.mark.parametrize("listen", [True, False], ids=["notified", "polling"])
async def test_a_pause_holds_in_three_processes_and_what_it_held_runs_afterwards(
    fleet: Fleet, database: Database, pg_dsn: str, listen: bool
) -> None:
    replicas = await fleet.start(
        3, pg_dsn, WORKER_CONCURRENCY=20, LEASE_SECONDS=4, HEARTBEAT_SECONDS=1,
        DATABASE_LISTEN=listen,
    )  # fmt: skip
    connection = await database.connect()
    await enqueue_all(pg_dsn, (NewJob("test.gated", queue="po"[n % 2]) for n in range(30)))
    await fleet.noted("start", 30)
    async with database.sessions.begin() as session:
        await pause_queue(session, "p", reason="a test")

    victim, held = await holder_of_both(connection, replicas)
    victim.kill()

    async def rescued() -> bool:
        again, orphans = await orphans_of(connection, "o", held)
        return again == orphans

    # Their leases ended at the same time: those of the paused queue would run again by now.
    await until(rescued, 30, what="rescue of the orphans of the other queue")
    fleet.ledger.open_gate()
    await enqueue_all(pg_dsn, (NewJob("test.flaky", {"number": n, "fails": False, "seconds": 0},
                                      queue="po"[n % 2]) for n in range(200)))  # fmt: skip
    others = "SELECT count(*) FROM background_jobs WHERE queue = 'o' AND status = 'SUCCESS'"

    async def others_ended() -> bool:
        return bool(await connection.fetchval(others) == 115)

    await until(others_ended, 60, what="end of the jobs of the other queue")
    again, orphans = await orphans_of(connection, "p", held)
    assert (again, orphans > 0) == (0, True)
    waiting = "SELECT count(*) FROM jobs_live WHERE queue = 'p' AND attempts = 0"
    assert await connection.fetchval(waiting) == 100

    async with database.sessions.begin() as session:
        await resume_queue(session, "p")
    await all_succeed(connection, 230, 60)
    again, _ = await orphans_of(connection, "p", held)
    assert again == orphans
    await connection.close()


async def orphans_of(
    connection: "asyncpg.Connection[asyncpg.Record]", queue: str, held: list[int]
) -> tuple[int, int]:
    """How many of these jobs are in the queue: those that run, or ran, again, and all."""
    (row,) = await connection.fetch(ORPHANS, queue, held)
    return row[0], row[1]


async def holder_of_both(
    connection: "asyncpg.Connection[asyncpg.Record]", replicas: list[Replica]
) -> tuple[Replica, list[int]]:
    """A replica that runs jobs of both queues, and their ids."""
    rows = await connection.fetch(
        "SELECT split_part(w.name, ':', 2)::int AS pid, array_agg(j.id) AS ids"
        " FROM background_jobs j JOIN job_workers w ON w.id = j.worker_id"
        " WHERE j.status = 'RUNNING' GROUP BY 1 HAVING count(DISTINCT j.queue) = 2 ORDER BY 1"
    )
    assert rows, "no replica runs jobs of both queues"
    by_pid = {replica.pid: replica for replica in replicas}
    return by_pid[rows[0]["pid"]], rows[0]["ids"]
