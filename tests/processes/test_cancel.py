"""A cancel that one process accepts stops the job in another, and none is lost with a process."""

import asyncio
import signal

import asyncpg
import httpx
import pytest

from service.db.engine import Database
from service.jobs import NewJob
from tests.processes.fleet import Fleet, Replica, until
from tests.processes.test_audit import headers
from tests.processes.workload import enqueue_all, statuses

JOBS = 30
PLACES = """
SELECT j.id, split_part(w.name, ':', 2)::int FROM jobs_live j
JOIN job_workers w ON w.id = j.worker_id WHERE j.status = 'RUNNING'"""
REPORTS = """
SELECT id, attempts, cancel ->> 'how', date_part('epoch', finished_at)
  - date_part('epoch', (cancel ->> 'requested_at')::timestamptz)
FROM background_jobs WHERE status = 'CANCELLED'"""


async def cancel(url: str, ids: list[int]) -> None:
    """Ask for the cancel of running jobs."""
    async with httpx.AsyncClient(headers=headers("operator", "olga"), timeout=30) as client:
        for job_id in ids:
            answer = await client.post(f"{url}/admin/jobs/{job_id}/cancel")
            assert answer.status_code == 202, answer.text


def other_than(pid: int, replicas: list[Replica]) -> Replica:
    return next(replica for replica in replicas if replica.pid != pid)


async def places(
    connection: "asyncpg.Connection[asyncpg.Record]", fleet: Fleet
) -> dict[int, list[int]]:
    """Which jobs each process runs, once all run."""
    await fleet.noted("start", JOBS)
    found: dict[int, list[int]] = {}
    for job_id, pid in await connection.fetch(PLACES):
        found.setdefault(pid, []).append(job_id)
    assert len(found) > 1, "one process runs all of them"
    return found


@pytest.mark.whole
@pytest.mark.timeout(150)
@pytest.mark.parametrize(("listen", "within"), [(True, 1.0), (False, 3.0)], ids=["told", "beats"])
async def test_a_cancel_through_one_process_stops_the_job_in_another(
    fleet: Fleet, database: Database, pg_dsn: str, listen: bool, within: float
) -> None:
    """At once where notifications work, else at a heartbeat: one comes each second."""
    replicas = await fleet.start(
        3, pg_dsn, WORKER_CONCURRENCY=JOBS // 2, HEARTBEAT_SECONDS=1, LEASE_SECONDS=30,
        DATABASE_LISTEN=listen,
    )  # fmt: skip
    connection = await database.connect()
    await enqueue_all(pg_dsn, (NewJob("test.gated") for _ in range(JOBS)))
    for pid, ids in (await places(connection, fleet)).items():
        await cancel(other_than(pid, replicas).url, ids)

    async def all_ended() -> bool:
        return (await statuses(connection)) == {"CANCELLED": JOBS}

    await until(all_ended, 30, what="end of what was cancelled")
    reports = await connection.fetch(REPORTS)
    await connection.close()
    assert {(attempts, how) for _, attempts, how, _ in reports} == {(1, "stopped")}
    assert max(seconds for *_, seconds in reports) < within
    assert len(fleet.ledger.of("stopped")) == len(fleet.ledger.of("start")) == JOBS


@pytest.mark.whole
@pytest.mark.timeout(150)
async def test_a_cancel_outlives_the_process_that_was_to_hear_of_it(
    fleet: Fleet, database: Database, pg_dsn: str
) -> None:
    replicas = await fleet.start(
        3, pg_dsn, WORKER_CONCURRENCY=JOBS // 2, HEARTBEAT_SECONDS=1, LEASE_SECONDS=3
    )
    connection = await database.connect()
    await enqueue_all(pg_dsn, (NewJob("test.gated") for _ in range(JOBS)))
    pid, ids = max((await places(connection, fleet)).items(), key=lambda one: len(one[1]))
    victim = next(replica for replica in replicas if replica.pid == pid)
    victim.process.send_signal(signal.SIGSTOP)  # it hears of nothing any more
    await cancel(other_than(pid, replicas).url, ids)
    victim.kill()

    async def ended() -> bool:
        return (await statuses(connection))["CANCELLED"] == len(ids)

    await until(ended, 30, what="end of what the dead process ran")
    fleet.ledger.open_gate()

    async def others_ended() -> bool:
        return (await statuses(connection))["SUCCESS"] == JOBS - len(ids)

    await until(others_ended, 30, what="end of the others")
    reports = await connection.fetch(REPORTS)
    await connection.close()
    assert {(attempts, how) for _, attempts, how, _ in reports} == {(1, "not_started")}
    assert {job_id for job_id, *_ in reports} == set(ids)
    assert len(fleet.ledger.of("start")) == JOBS, "none ran again"
    await asyncio.gather(*(one.terminate() for one in replicas if one is not victim))
