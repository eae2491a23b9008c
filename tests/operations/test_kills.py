"""Processes that carry an operation out are killed: it goes on, and acts on each job once."""

from pathlib import Path
from typing import Any

import pytest

from service.jobs.core.bulk_action import Verb
from service.jobs.core.filters import JobFilters
from service.operations import repository
from service.operations.model import Operation
from tests.operations.conftest import Fill, Start
from tests.processes.fleet import Fleet, Replica, until

pytestmark = [pytest.mark.whole, pytest.mark.timeout(240)]

JOBS = 20_000
KILLS = 3

_STANDS = """
SELECT (SELECT changed FROM operations WHERE id = $1) AS noted, count(*) AS acted_on,
  coalesce(max(jsonb_array_length(errors)), 0) AS most
FROM background_jobs WHERE job_type = 'mail' AND status = 'PENDING'"""
_RUN_BY = """
SELECT split_part(w.name, ':', 2)::int FROM background_jobs b JOIN job_workers w ON w.id = b.worker_id
WHERE b.job_type = 'finmind.operation' AND b.status = 'RUNNING'"""


async def killed_in_the_middle(sql: Any, fleet: Fleet, operation: Operation) -> Replica | None:
    """Kill the process that carries the operation out, once it has come further; None: it is done."""
    before = (await sql.fetchrow(_STANDS, operation.id))["noted"]
    killed: list[Replica] = []

    async def done() -> bool:
        stands = await sql.fetchrow(_STANDS, operation.id)
        assert stands["noted"] == stands["acted_on"]
        pid = await sql.fetchval(_RUN_BY)
        if stands["noted"] > before and pid is not None:
            killed.extend(one for one in fleet.replicas if one.pid == pid)
            for one in killed:
                one.kill()
        return bool(killed) or stands["noted"] == JOBS

    await until(done, 60, what="an operation to kill")
    return killed[0] if killed else None


async def test_processes_killed_in_the_middle_leave_each_job_acted_on_once(
    tmp_path: Path, pg_dsn: str, fill: Fill, start: Start, sql: Any
) -> None:
    await fill(JOBS)
    fleet = Fleet(tmp_path)
    # They name other queues: the one of operations is served all the same.
    settings: dict[str, Any] = {
        "LEASE_SECONDS": 3,
        "HEARTBEAT_SECONDS": 1,
        "WORKER_QUEUES": "other",
    }
    try:
        await fleet.start(3, pg_dsn, **settings)
        operation = await start(Verb.RETRY, JobFilters(job_type="mail"), rate=4_000)
        kills = 0
        for _ in range(KILLS):
            if await killed_in_the_middle(sql, fleet, operation) is None:
                break
            kills += 1
            fleet.spawn(pg_dsn, **settings)

        async def finished() -> bool:
            return bool(await sql.fetchval("SELECT state = 'done' FROM operations"))

        await until(finished, 120, what="the end of the operation")
    finally:
        fleet.stop()
    assert kills == KILLS
    stands = await sql.fetchrow(_STANDS, operation.id)
    assert tuple(stands) == (JOBS, JOBS, 1)


async def test_a_cursor_that_is_not_moved_with_its_chunk_is_noticed(
    fill: Fill, start: Start, sql: Any, monkeypatch: pytest.MonkeyPatch, operator: None
) -> None:
    """The bug that is planted: the position stays where it was, as if another transaction kept it."""
    advance = repository.advance

    async def forgetful(*args: Any, before_id: int, **rest: Any) -> None:
        await advance(*args, before_id=args[1].before_id, **rest)

    monkeypatch.setattr(repository, "advance", forgetful)
    await fill(300, status="PENDING")
    await start(Verb.SET_PRIORITY, JobFilters(job_type="mail"), priority=0, rate=1000)

    async def too_many() -> bool:
        return bool(await sql.fetchval("SELECT changed > 300 FROM operations"))

    await until(too_many, 10, what="more changes than there are jobs")
