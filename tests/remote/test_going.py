"""Jobs that workers over HTTP have: cancels, timeouts, progress, lines, and the end of a worker."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from service.settings import Settings
from tests.api.conftest import Auth
from tests.jobs.waiting import until, until_true
from tests.remote.conftest import Call, Sql, lease
from tests.remote.test_claims import gateway_of
from tests.remote.test_reports import claim_one


@pytest.fixture
def api_settings(make_settings: Any, pg_dsn: str) -> Settings:
    return make_settings(  # type: ignore[no-any-return]
        database_url=SecretStr(pg_dsn),
        query_timeout_seconds=30,
        backoff_base_seconds=60,
        cancel_grace_seconds=0.2,
        job_log_lines=3,
    )


async def test_a_cancel_is_told_by_the_next_heartbeat_and_whatever_is_reported_ends_it(
    call: Call, enqueue: Call, client: httpx.AsyncClient, auth: Auth
) -> None:
    ids = [await enqueue(), await enqueue()]
    stops, ignores = (await call("claim", limit=2))["jobs"]
    for job in (stops, ignores):
        answer = await client.post(f"/admin/jobs/{job['id']}/cancel", headers=auth("admin"))
        assert answer.status_code == 202
    beat = await call("heartbeat", jobs=[lease(stops), lease(ignores)])
    assert [one["state"] for one in beat["jobs"]] == ["cancel", "cancel"]
    told = await call("fail", jobs=[lease(stops, error={"message": "stopped"})])
    assert told["jobs"][0] == {**lease(stops), "outcome": "recorded", "status": "CANCELLED"}

    async def ended() -> bool:
        shown = await client.get(f"/admin/jobs/{ignores['id']}", headers=auth("admin"))
        return bool(shown.json()["status"] == "CANCELLED")

    await until(ended)
    assert (await call("complete", jobs=[lease(ignores)]))["jobs"][0]["outcome"] == "repeated"
    reports = []
    for job_id in (stops["id"], ignores["id"]):
        shown = (await client.get(f"/admin/jobs/{job_id}", headers=auth("admin"))).json()
        reports.append(shown["cancel"])
    assert [report["how"] for report in reports] == ["failed", "ignored"]
    assert all(report["seen_at"] for report in reports)
    assert sorted(ids) == sorted([stops["id"], ignores["id"]])


async def test_a_heartbeat_that_waits_is_answered_the_moment_somebody_asks_for_a_cancel(
    app: FastAPI, call: Call, enqueue: Call, client: httpx.AsyncClient, auth: Auth
) -> None:
    await enqueue()
    job = await claim_one(call)
    at_once = await call("heartbeat", jobs=[lease(job, lease_token=1)], wait_seconds=10.0)
    assert at_once["jobs"][0]["state"] == "lease_lost"
    short = await call("heartbeat", jobs=[lease(job)], wait_seconds=0.05)
    assert short["jobs"][0]["state"] == "held"
    assert 29 < short["jobs"][0]["lease_seconds"] < 29.96
    told = asyncio.create_task(call("heartbeat", jobs=[lease(job)], wait_seconds=10.0))
    await until_true(lambda: gateway_of(app).heartbeats.waiting == 1)
    await client.post(f"/admin/jobs/{job['id']}/cancel", headers=auth("admin"))
    async with asyncio.timeout(8):
        assert (await told)["jobs"][0]["state"] == "cancel"
    assert gateway_of(app).heartbeats.waiting == 0


async def test_a_timeout_comes_in_time_without_a_heartbeat(
    call: Call, enqueue: Call, sql: Sql
) -> None:
    await enqueue(timeout_seconds=0.3)
    job = await claim_one(call)

    async def over() -> bool:
        return bool(await sql.fetchval("SELECT status = 'PENDING' FROM jobs_live"))

    await until(over)
    assert (await call("complete", jobs=[lease(job)]))["jobs"][0]["outcome"] == "repeated"
    assert "HandlerTimeout" in await sql.fetchval("SELECT last_error FROM jobs_live")


async def test_progress_and_lines_stay_with_the_job_while_its_lease_holds(
    call: Call, enqueue: Call, client: httpx.AsyncClient, auth: Auth
) -> None:
    made = await enqueue()
    job = await claim_one(call)
    other = lease(job) | {"lease_token": job["lease_token"] + 1}
    told = await call(
        "progress", jobs=[lease(job, fraction=0.5, message="half"), {**other, "fraction": 0.9}]
    )
    assert [one["outcome"] for one in told["jobs"]] == ["recorded", "lease_lost"]
    lines = [{"line": n, "message": f"line {n}", "fields": {"n": n}} for n in (1, 2)]
    for _ in range(2):  # as if the first answer had been lost
        told = await call("log", jobs=[lease(job, lines=lines), {**other, "lines": lines}])
    assert [(one["outcome"], one["full"]) for one in told["jobs"]] == [
        ("recorded", False),
        ("lease_lost", False),
    ]
    more = [{"line": n, "message": f"line {n}", "level": "error"} for n in (3, 4, 5)]
    told = await call("log", jobs=[lease(job, lines=more)])
    assert told["jobs"][0]["full"] is True
    shown = (await client.get(f"/jobs/{made}", headers=auth("admin"))).json()
    assert shown["progress"] == {"fraction": 0.5, "message": "half"}
    logged = await client.get(f"/admin/jobs/{made}/logs", headers=auth("admin"))
    kept = [(one["level"], one["message"]) for one in logged.json()["lines"]]
    assert kept[:3] == [("info", "line 1"), ("info", "line 2"), ("error", "line 3")]
    assert [message.startswith("What this attempt logs") for _, message in kept[3:]] == [True]


async def test_what_a_worker_registers_holds_for_its_jobs_and_its_types_count_as_served(
    call: Call, enqueue: Call, client: httpx.AsyncClient, auth: Auth
) -> None:
    known = await call(
        "register",
        concurrency=7,
        version="1.4.0",
        policies={"mail": {"timeout_seconds": 9, "max_retries": 0}},
    )
    assert known["lease_seconds"] == 30
    made = await enqueue(max_retries=None)
    job = await claim_one(call)
    assert (job["timeout_seconds"], job["max_attempts"]) == (9, 1)
    told = await call("fail", jobs=[lease(job, error={"message": "no"})])
    assert told["jobs"][0] == {**lease(job), "outcome": "recorded", "status": "DEAD_LETTER"}
    workers = (await client.get("/admin/workers", headers=auth("admin"))).json()["workers"]
    (worker,) = workers
    assert (worker["name"], worker["status"], worker["slots"]) == ("w:1", "live", 7)
    assert (worker["job_types"], worker["queues"]) == (["mail"], ["*"])
    assert (worker["owner"], worker["drain_asked_at"]) == ("tester", None)
    explained = await client.get(f"/jobs/{made}/explain", headers=auth("admin"))
    assert explained.status_code == 200


async def test_a_worker_that_stops_is_no_loss(
    app: FastAPI, call: Call, client: httpx.AsyncClient, auth: Auth
) -> None:
    waiting = asyncio.create_task(call("claim", wait_seconds=15.0))
    await until_true(lambda: gateway_of(app).waiting == 1)
    assert await call("stop", worker="w:1") == {"known": True}
    async with asyncio.timeout(5):
        assert (await waiting)["jobs"] == []
    workers = (await client.get("/admin/workers", headers=auth("admin"))).json()["workers"]
    assert [one["status"] for one in workers] == ["stopped"]
    assert await call("stop", worker="nobody") == {"known": False}


async def test_limits_of_queues_hold_for_workers_over_http(
    call: Call, enqueue: Call, client: httpx.AsyncClient, auth: Auth
) -> None:
    limits = {"max_running": 1}
    assert (
        await client.patch("/queues/default", json=limits, headers=auth("admin"))
    ).status_code == 200
    ids = [await enqueue(), await enqueue()]
    first = (await call("claim", limit=5))["jobs"]
    assert len(first) == 1
    assert (await call("claim", limit=5, worker="w:2"))["jobs"] == []
    await call("complete", jobs=[lease(first[0])])
    second = (await call("claim", limit=5, worker="w:2", wait_seconds=10.0))["jobs"]
    assert sorted([first[0]["id"], second[0]["id"]]) == ids
    paused = {"paused": True, "reason": "a test"}
    await client.patch("/queues/other", json=paused, headers=auth("admin"))
    await enqueue(queue="other")
    assert (await call("claim", limit=5, queues=["other"]))["jobs"] == []


async def test_a_worker_that_is_drained_gets_no_more_jobs(
    call: Call, enqueue: Call, client: httpx.AsyncClient, auth: Auth
) -> None:
    await enqueue()
    worker_id = (await call("register"))["worker_id"]
    job = await claim_one(call)
    for _ in range(2):
        answer = await client.post(f"/admin/workers/{worker_id}/drain", headers=auth("operator"))
        assert answer.status_code == 200
    await enqueue()
    beat = await call("heartbeat", jobs=[lease(job)])
    assert (beat["drain"], beat["jobs"][0]["state"]) == (True, "held")
    assert await call("claim", wait_seconds=10.0) == {"jobs": [], "drain": True}
    assert (await call("complete", jobs=[lease(job)]))["jobs"][0]["outcome"] == "recorded"
    assert (await call("register"))["drain"] is False
    assert len((await call("claim", wait_seconds=5.0))["jobs"]) == 1
    assert (
        await client.post("/admin/workers/99/drain", headers=auth("operator"))
    ).status_code == 404
