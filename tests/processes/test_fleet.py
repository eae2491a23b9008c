"""Three replicas share one table: nothing is lost, nothing is recorded twice, whoever dies."""

import asyncpg
import pytest

from service.db.engine import Database
from service.jobs import NewJob
from tests.chaos.ledger import repeated
from tests.processes.fleet import Fleet, Replica
from tests.processes.workload import all_succeed, check_each_succeeded_once, enqueue_all, flaky_jobs

SIZES = [
    pytest.param(2_000, marks=pytest.mark.timeout(120)),
    pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
]
END_SECONDS = {2_000: 60.0, 20_000: 240.0}
HANDLER_SECONDS = 0.01
"""With 20 slots a replica runs 2,000 jobs a second at most: no replica takes them all."""


@pytest.mark.parametrize("count", SIZES)
async def test_every_job_of_three_replicas_succeeds_and_is_settled_once(
    fleet: Fleet, database: Database, pg_dsn: str, count: int
) -> None:
    replicas = await fleet.start(3, pg_dsn, WORKER_CONCURRENCY=20)
    await enqueue_all(pg_dsn, flaky_jobs(count, seconds=HANDLER_SECONDS, queues=5))
    connection = await database.connect()
    await all_succeed(connection, count, END_SECONDS[count])
    attempts = await connection.fetch(
        "SELECT attempts, count(*) FROM background_jobs GROUP BY 1 ORDER BY 1"
    )
    await connection.close()

    await check_each_succeeded_once(database, count=count)
    failing = count // 5
    assert [tuple(row) for row in attempts] == [(1, count - failing), (2, failing)]
    ends = fleet.ledger.of("end")
    assert repeated(note.job_id for note in ends) == set()
    assert len(ends) == count
    assert len(fleet.ledger.of("fail")) == failing
    assert len(fleet.ledger.of("start")) == count + failing
    assert {note.pid for note in ends} == {replica.pid for replica in replicas}
    counted = "finmind_job_events_total"
    assert await fleet.total(counted, event="succeeded") == count
    assert await fleet.total(counted, event="retried") == failing
    assert await fleet.total(counted, event="stale_settle") == 0
    assert [await replica.terminate() for replica in replicas] == [0, 0, 0], fleet.said()


@pytest.mark.parametrize("count", SIZES)
async def test_kill_9_of_a_replica_loses_no_job(
    fleet: Fleet, database: Database, pg_dsn: str, count: int
) -> None:
    replicas = await fleet.start(
        3, pg_dsn, WORKER_CONCURRENCY=20, LEASE_SECONDS=4, HEARTBEAT_SECONDS=1
    )
    connection = await database.connect()
    await enqueue_all(pg_dsn, flaky_jobs(count, seconds=HANDLER_SECONDS))
    await fleet.noted("end", count // 4)
    victim = replicas[1]
    victim.kill()
    in_flight = await held_by(connection, victim)
    await all_succeed(connection, count, END_SECONDS[count])
    rows = await connection.fetch("SELECT id, lease_token, errors FROM background_jobs")
    await connection.close()

    assert in_flight, "the kill came too late to prove anything"
    await check_each_succeeded_once(database, count=count)
    ends = fleet.ledger.of("end")
    assert repeated(note.job_id for note in ends) <= in_flight
    # What stands was recorded under the lease of an attempt that came to its end.
    assert {(row["id"], row["lease_token"]) for row in rows} <= {
        (note.job_id, note.lease_token) for note in ends
    }
    rescued = {row["id"] for row in rows if '"lease_lost"' in (row["errors"] or "")}
    assert rescued <= in_flight
    # A replica may have claimed what it had not begun: those are rescued without a trace here.
    begun = {note.job_id for note in fleet.ledger.of("start") if note.pid == victim.pid}
    settled_by_victim = {row["id"] for row in rows} - in_flight
    assert begun <= settled_by_victim | rescued
    assert {note.pid for note in ends} == {replica.pid for replica in replicas}


@pytest.mark.timeout(120)
async def test_sigterm_exits_0_and_counts_no_attempt(
    fleet: Fleet, database: Database, pg_dsn: str
) -> None:
    replicas = await fleet.start(3, pg_dsn, WORKER_CONCURRENCY=10, SHUTDOWN_GRACE_SECONDS=0.3)
    connection = await database.connect()
    await enqueue_all(pg_dsn, (NewJob("test.gated") for _ in range(60)))
    await fleet.noted("start", 30)
    leaving = replicas[0]
    in_flight = await held_by(connection, leaving)
    assert len(in_flight) == 10

    assert await leaving.terminate() == 0, fleet.said()
    # The others are full, so what was given back waits, as if it had never been claimed.
    given_back = await connection.fetch(
        "SELECT status, attempts, lost_leases, errors, lease_until FROM background_jobs"
        " WHERE id = ANY ($1::bigint[])",
        sorted(in_flight),
    )
    assert [tuple(row) for row in given_back] == [("PENDING", 0, 0, None, None)] * 10

    fleet.ledger.open_gate()
    await all_succeed(connection, 60, 60)
    burnt = "SELECT count(*) FROM background_jobs WHERE attempts <> 1 OR errors IS NOT NULL"
    assert await connection.fetchval(burnt) == 0
    await connection.close()
    ends = fleet.ledger.of("end")
    assert repeated(note.job_id for note in ends) == set()
    assert leaving.pid not in {note.pid for note in ends}


async def held_by(connection: "asyncpg.Connection[asyncpg.Record]", replica: Replica) -> set[int]:
    """The jobs that are RUNNING under the replica's leases."""
    rows = await connection.fetch(
        "SELECT j.id FROM background_jobs j JOIN job_workers w ON w.id = j.worker_id"
        " WHERE j.status = 'RUNNING' AND split_part(w.name, ':', 2) = $1",
        str(replica.pid),
    )
    return {row[0] for row in rows}
