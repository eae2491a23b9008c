"""Three processes and one audit log: one entry for one change, and one for a flood of refusals."""

import asyncio
import time

import httpx
import jwt
import pytest

from service.db.engine import Database
from tests.conftest import TEST_SECRET
from tests.processes.fleet import Fleet, Replica, until

pytestmark = pytest.mark.timeout(120)

DEAD = """
INSERT INTO jobs_dead (job_type, queue, status, attempts, finished_at)
SELECT 'mail', 'nobody', 'FAILED', 1, now() RETURNING id"""
MONTHS = r"SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^audit_log_\d{6}$'"


def headers(role: str, subject: str) -> dict[str, str]:
    claims = {"sub": subject, "role": role, "exp": int(time.time()) + 600}
    return {"authorization": f"Bearer {jwt.encode(claims, TEST_SECRET, algorithm='HS256')}"}


async def flood(replicas: list[Replica], path: str, role: str, subject: str) -> list[int]:
    """The statuses of thirty requests, ten to each replica, all at once."""
    async with httpx.AsyncClient(headers=headers(role, subject), timeout=30) as client:
        answers = await asyncio.gather(
            *(client.post(f"{replica.url}{path}") for _ in range(10) for replica in replicas)
        )
    return [answer.status_code for answer in answers]


async def test_three_processes_write_one_entry_for_one_change_and_one_for_a_flood(
    fleet: Fleet, database: Database, pg_dsn: str
) -> None:
    replicas = await fleet.start(3, pg_dsn, MAINTENANCE_SECONDS=0.2)
    sql = await database.connect()
    job_id = await sql.fetchval(DEAD)
    path = f"/admin/jobs/{job_id}/retry"
    assert set(await flood(replicas, path, "viewer", "eve")) == {403}
    assert sorted(set(await flood(replicas, path, "operator", "ann"))) == [200, 409]
    entries = await sql.fetch("SELECT actor, action, outcome FROM audit_log ORDER BY id")
    assert [tuple(entry) for entry in entries] == [
        ("eve", "access.refused", "refused"),
        ("ann", "job.retry", "done"),
    ]

    async def months_are_made() -> bool:
        return bool(await sql.fetchval(MONTHS) == 2)

    await until(months_are_made, 30, what="this month and the next")
    assert await sql.fetchval("SELECT count(*) FROM audit_log_default") == 0
    assert await sql.fetchval("SELECT count(*) FROM audit_log") == 2
    await sql.close()
