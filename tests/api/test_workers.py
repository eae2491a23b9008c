"""`/admin/workers`: who lives, who was lost, who stopped, and what each runs."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.jobs import NewJob, enqueue_batch
from service.jobs.read import workers as worker_list
from tests import databases
from tests.api.conftest import Auth

WORKERS = """
INSERT INTO job_workers (name, queues, job_types, concurrency, version, started_at, seen_at, stopped_at)
VALUES ('web-1:831:aa', '{a:5,*}', '{x,y}', 4, '1.2', now() - interval '1 h', now(), NULL),
  ('web-2:7:bb', '{*}', '{x}', 2, NULL, now() - interval '2 h', now() - interval '1 h', NULL),
  ('odd', '{*}', '{x}', 2, '1.2', now() - interval '5 h', now() - interval '3 h', now() - interval '3 h')"""
RUNS = """
UPDATE jobs_live SET status = 'RUNNING', started_at = now() - make_interval(secs => id),
  lease_until = now() + interval '1 min', worker_id = (SELECT min(id) FROM job_workers)
WHERE job_type = 'x'"""


async def workers(client: httpx.AsyncClient, auth: Auth) -> list[Any]:
    answer = await client.get("/admin/workers", headers=auth("viewer"))
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["workers"]
    return found


async def test_live_workers_come_first_then_the_lost_then_the_stopped(
    client: httpx.AsyncClient, auth: Auth, pg_dsn: str
) -> None:
    await databases.execute(pg_dsn, WORKERS)
    live, lost, stopped = await workers(client, auth)
    assert (live["host"], live["pid"], live["version"]) == ("web-1", 831, "1.2")
    assert (live["status"], live["queues"], live["slots"]) == ("live", ["a:5", "*"], 4)
    assert 3590 < live["up_seconds"] < 3700
    assert (lost["status"], lost["version"]) == ("lost", None)
    assert (stopped["status"], stopped["host"], stopped["pid"]) == ("stopped", "odd", None)
    assert 7190 < stopped["up_seconds"] < 7210


async def test_each_worker_shows_what_it_runs_the_longest_first(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth, pg_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(worker_list, "MAX_SHOWN", 2)
    await databases.execute(pg_dsn, WORKERS)
    jobs = [NewJob("x", priority=n) for n in range(3)] + [NewJob("waits") for _ in range(5)]
    async with app.state.service.database.sessions.begin() as session:
        await enqueue_batch(session, jobs)
    await databases.execute(pg_dsn, RUNS)
    live, lost, _ = await workers(client, auth)
    assert (live["used"], lost["used"]) == (3, 0)
    assert [job["id"] for job in live["jobs"]] == [3, 2]
    assert live["jobs"][0]["seconds"] >= 3


async def test_a_list_with_too_many_workers_says_so(
    client: httpx.AsyncClient, auth: Auth, pg_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_list, "MAX_WORKERS", 2)
    await databases.execute(pg_dsn, WORKERS)
    answer = await client.get("/admin/workers", headers=auth("viewer"))
    assert (len(answer.json()["workers"]), answer.json()["complete"]) == (2, False)
