"""`worker --processes N`: workers under a supervisor, and what is left of them when one is killed."""

import os
import signal
from typing import Any

import httpx
import psutil
import pytest

from service.db.engine import Database
from service.jobs import NewJob
from tests.processes.fleet import Fleet, Replica, until
from tests.processes.workload import all_succeed, enqueue_all

JOBS = 60


def spawn(fleet: Fleet, dsn: str, **environment: Any) -> Replica:
    return fleet.spawn(
        dsn,
        "worker",
        "--processes",
        "2",
        WORKER_PORT=0,
        SHUTDOWN_GRACE_SECONDS=1,
        WORKER_CONCURRENCY=1,
        **environment,
    )


def below(pid: int) -> list[psutil.Process]:
    """The processes that a process has started."""
    return psutil.Process(pid).children()


async def gone(pids: list[int]) -> None:
    async def are_gone() -> bool:
        return not any(
            psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
            for pid in pids
        )

    await until(are_gone, 30, what=f"end of the processes {pids}")


async def restarts(supervisor: Replica) -> float:
    return await supervisor.metric("finmind_worker_process_restarts_total")


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_a_supervisor_keeps_its_workers_running_and_answers_for_all_of_them(
    fleet: Fleet, database: Database, pg_dsn: str
) -> None:
    supervisor = spawn(fleet, pg_dsn)
    await supervisor.ready()
    workers = [process.pid for process in below(supervisor.pid)]
    assert len(workers) == 2
    assert await supervisor.metric("finmind_worker_processes", process="supervisor") == 2
    up = [await supervisor.metric("finmind_worker_up", process=str(number)) for number in (0, 1)]
    assert up == [1, 1]
    os.kill(workers[0], signal.SIGKILL)

    async def says_so() -> bool:
        async with httpx.AsyncClient(base_url=supervisor.url, timeout=10) as client:
            answer = await client.get("/health/ready")
            alive = await client.get("/health/live")
        assert alive.status_code == 200
        return answer.status_code == 503 and any(not one["ok"] for one in answer.json()["checks"])

    await until(says_so, 10, what="answer that a worker is missing")
    await supervisor.ready()
    assert await restarts(supervisor) == 1
    now = [process.pid for process in below(supervisor.pid)]
    assert (len(now), workers[1] in now, workers[0] in now) == (2, True, False)
    os.kill(workers[1], signal.SIGSTOP)
    async with httpx.AsyncClient(base_url=supervisor.url, timeout=10) as client:
        assert (await client.get("/health/live")).status_code == 503, "it does not answer"
    os.kill(workers[1], signal.SIGCONT)
    os.kill(now[0], signal.SIGTERM)  # as some service managers do to all processes of a service
    assert await supervisor.terminate() == 0
    await gone(now)
    assert "worker_process_ended" in supervisor.said()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_kills_of_handlers_workers_and_supervisors_lose_no_job(
    fleet: Fleet, database: Database, pg_dsn: str
) -> None:
    supervisors = [spawn(fleet, pg_dsn, LEASE_SECONDS=3, HEARTBEAT_SECONDS=1) for _ in range(2)]
    for supervisor in supervisors:
        await supervisor.ready()
    first, second = ([worker.pid for worker in below(one.pid)] for one in supervisors)
    connection = await database.connect()
    # One in each worker, for longer than the test lasts: none ends by itself.
    long = {"seconds": 300, "gated": True}
    await enqueue_all(pg_dsn, (NewJob("test.computed", long) for _ in range(4)))
    await fleet.noted("start", 4)
    handlers = {pid: below(pid)[0].pid for pid in (*first, *second)}

    os.kill(handlers[first[0]], signal.SIGKILL)
    await fleet.noted("start", 5)  # in a new process
    os.kill(first[1], signal.SIGKILL)
    await gone([handlers[first[1]]])
    supervisors[1].kill()
    await gone([*second, *(handlers[pid] for pid in second)])
    short = {"seconds": 0.1, "gated": False}
    await enqueue_all(pg_dsn, (NewJob("test.computed", short) for _ in range(JOBS - 4)))
    fleet.ledger.gate.touch()
    await all_succeed(connection, JOBS, 60)
    ends = {(note.job_id, note.lease_token) for note in fleet.ledger.of("end")}
    rows = await connection.fetch("SELECT id, result::text::bigint FROM background_jobs")
    assert len(rows) == JOBS
    assert {(row[0], row[1]) for row in rows} <= ends, "each has the result of its last run"
    await connection.close()
    assert await restarts(supervisors[0]) == 1
    assert await supervisors[0].terminate() == 0


@pytest.mark.slow
async def test_a_configuration_that_workers_refuse_ends_the_supervisor(
    fleet: Fleet, pg_dsn: str
) -> None:
    supervisor = spawn(fleet, pg_dsn, HANDLER_MODULES="no_such_handlers")
    assert supervisor.process.wait(60) == 2
    assert "no_such_handlers" in supervisor.said()
