"""Claims over HTTP: what they bring, how they wait, and what a lost answer costs."""

import asyncio

import httpx
from fastapi import FastAPI

from service.remote.gateway import Gateway
from tests.api.conftest import Auth
from tests.jobs.waiting import until_true
from tests.remote.conftest import Call, Sql, lease


def gateway_of(app: FastAPI) -> Gateway:
    gateway: Gateway = app.state.service.gateway
    return gateway


async def test_a_claim_brings_what_is_due_and_a_report_ends_it(
    call: Call, enqueue: Call, client: httpx.AsyncClient, auth: Auth
) -> None:
    ids = [await enqueue(payload={"n": n, "text": 'a "word" ☃'}, priority=5 - n) for n in range(3)]
    claimed = await call("claim", limit=2)
    jobs = sorted(claimed["jobs"], key=lambda job: job["id"])
    assert [job["id"] for job in jobs] == ids[1:]
    assert jobs[0]["payload"] == {"n": 1, "text": 'a "word" ☃'}
    assert (jobs[0]["attempt"], jobs[0]["max_attempts"], jobs[0]["timeout_seconds"]) == (1, 2, 300)
    assert 20 < jobs[0]["lease_seconds"] <= 30
    assert claimed["drain"] is False
    told = await call("complete", jobs=[lease(job, result={"ok": job["id"]}) for job in jobs])
    assert told["jobs"] == [
        {**lease(job), "outcome": "recorded", "status": "SUCCESS"} for job in jobs
    ]
    shown = (await client.get(f"/jobs/{ids[1]}", headers=auth("admin"))).json()
    assert (shown["status"], shown["result"]) == ("SUCCESS", {"ok": ids[1]})
    assert [job["id"] for job in (await call("claim"))["jobs"]] == ids[:1]


async def test_a_waiting_claim_is_woken_by_an_enqueue(
    app: FastAPI, call: Call, enqueue: Call
) -> None:
    assert (await call("claim", wait_seconds=0.01))["jobs"] == []
    waiting = asyncio.create_task(call("claim", limit=10, wait_seconds=15.0))
    await until_true(lambda: gateway_of(app).waiting == 1)
    made = await enqueue()
    async with asyncio.timeout(10):
        assert [job["id"] for job in (await waiting)["jobs"]] == [made]


async def test_claims_that_wait_together_share_a_line_and_get_each_job_once(
    app: FastAPI, call: Call, enqueue: Call
) -> None:
    waiting = [
        asyncio.create_task(call("claim", worker=f"w:{n}", wait_seconds=15.0)) for n in range(20)
    ]
    await until_true(lambda: gateway_of(app).waiting == 20)
    assert gateway_of(app).lines == 1
    ids = [await enqueue() for _ in range(20)]
    async with asyncio.timeout(15):
        answers = await asyncio.gather(*waiting)
    assert sorted(job["id"] for answer in answers for job in answer["jobs"]) == ids


async def test_a_claim_that_is_sent_again_brings_the_same_jobs(call: Call, enqueue: Call) -> None:
    made = [await enqueue() for _ in range(2)]
    first = await call("claim", limit=2, request_id="r1")
    again = await call("claim", limit=2, request_id="r1")
    assert [lease(job) for job in again["jobs"]] == [lease(job) for job in first["jobs"]]
    await call("complete", jobs=[lease(first["jobs"][0])])
    left = await call("claim", limit=2, request_id="r1")
    assert [job["id"] for job in left["jobs"]] == [first["jobs"][1]["id"]]
    assert {job["id"] for job in first["jobs"]} == set(made)
    assert (await call("claim", limit=2, request_id="r2"))["jobs"] == []


async def test_a_worker_that_hangs_up_while_it_waits_is_claimed_nothing_for(
    app: FastAPI, call: Call, enqueue: Call, sql: Sql
) -> None:
    gone = asyncio.create_task(call("claim", wait_seconds=15.0))
    await until_true(lambda: gateway_of(app).waiting == 1)
    gone.cancel()
    await until_true(lambda: gateway_of(app).waiting == 0)
    made = await enqueue()
    claimed = await call("claim", worker="w:2", wait_seconds=10.0)
    assert [(job["id"], job["attempt"]) for job in claimed["jobs"]] == [(made, 1)]


async def test_a_process_that_stops_answers_those_that_wait_and_sends_no_worker_home(
    app: FastAPI, call: Call
) -> None:
    waiting = asyncio.create_task(call("claim", wait_seconds=15.0))
    await until_true(lambda: gateway_of(app).waiting == 1)
    app.state.service.stop_claiming()
    async with asyncio.timeout(5):
        assert await waiting == {"jobs": [], "drain": False}
    assert "claim again" in (await call("claim", status=503))["detail"]
