"""Steps, waits and callbacks over processes: a job goes on wherever its event comes in, and whoever dies."""

import asyncio
from typing import Any

import httpx
import pytest

from service.db.engine import Database
from tests.processes.fleet import Fleet, until
from tests.processes.test_audit import headers

JOBS = 6
BUSY = """
SELECT split_part(w.name, ':', 2)::int FROM jobs_live j
JOIN job_workers w ON w.id = j.worker_id WHERE j.status = 'RUNNING'"""


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_jobs_of_steps_go_on_in_other_processes_and_tell_who_waits_there(
    fleet: Fleet, database: Database, pg_dsn: str
) -> None:
    first, second, third = await fleet.start(
        3, pg_dsn, WORKER_CONCURRENCY=JOBS // 2, LEASE_SECONDS=3, HEARTBEAT_SECONDS=1
    )
    connection = await database.connect()
    async with httpx.AsyncClient(headers=headers("service", "ann"), timeout=90) as client:

        async def post(url: str, **body: Any) -> Any:
            return (await client.post(url, json=body)).raise_for_status().json()

        callback = {"url": "https://nobody.invalid/ended"}
        made = [
            (await post(f"{first.url}/jobs", job_type="test.order", callback=callback))["id"]
            for _ in range(JOBS)
        ]
        await fleet.noted("charge", JOBS)
        for job_id in made:
            await post(f"{second.url}/jobs/{job_id}/events/paid", data={"job": job_id})
        await fleet.noted("ship", JOBS)
        pid = await connection.fetchval(BUSY)
        victim = next(one for one in (first, second, third) if one.pid == pid)
        left = [one for one in (first, second, third) if one is not victim]
        waiting = [
            asyncio.create_task(client.get(f"{one.url}/jobs/{job_id}?wait=60"))
            for one, job_id in zip(left * JOBS, made, strict=False)
        ]
        following = asyncio.create_task(client.get(f"{left[0].url}/jobs/{made[0]}/events"))
        victim.kill()
        fleet.ledger.open_gate()
        answers = [(await one).json() for one in waiting]
        events = (await following).text
    assert {one["status"] for one in answers} == {"SUCCESS"}, fleet.said()
    assert [one["result"]["paid"] for one in answers] == [{"job": job_id} for job_id in made]
    assert len(fleet.ledger.of("charge")) == JOBS  # once each, whoever was killed behind it
    assert 'event: end\ndata: {"status": "SUCCESS"}' in events
    assert events.count('"message": "charged"') >= 1

    async def called() -> Any:
        told = "SELECT count(*) FROM background_jobs WHERE job_type = 'http.request'"
        return await connection.fetchval(f"{told} HAVING count(*) >= {JOBS}")

    assert await until(called, 30, what="callbacks") == JOBS
    await connection.close()
