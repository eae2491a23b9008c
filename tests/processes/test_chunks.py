"""A job kills its process amid a chunk: what was in it comes back, each job alone."""

import pytest

from service.db.engine import Database
from service.jobs import NewJob
from tests.chaos.ledger import repeated
from tests.processes.fleet import Fleet
from tests.processes.workload import all_succeed, check_each_succeeded_once, enqueue_all

JOBS = 60


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_what_was_in_a_chunk_when_its_process_died_runs_alone_and_nothing_is_lost(
    fleet: Fleet, database: Database, pg_dsn: str
) -> None:
    await fleet.start(3, pg_dsn, WORKER_CONCURRENCY=20, LEASE_SECONDS=2, HEARTBEAT_SECONDS=0.5)
    jobs = (NewJob("test.chunk", {"kills": number == JOBS // 2}) for number in range(JOBS))
    await enqueue_all(pg_dsn, jobs)
    connection = await database.connect()
    await all_succeed(connection, JOBS, 60)
    await connection.close()

    await check_each_succeeded_once(database, count=JOBS)
    (victim,) = [one for one in fleet.replicas if one.process.poll() is not None]
    starts = fleet.ledger.of("start")
    again = [note for note in starts if note.attempt > 1]
    died_with = {note.job_id for note in starts if note.pid == victim.pid}
    assert {note.job_id for note in again} <= died_with
    assert {note.detail for note in again} == {"1"}
    # What its handlers had ended a moment before may not have been recorded.
    assert repeated(note.job_id for note in fleet.ledger.of("end")) <= died_with
