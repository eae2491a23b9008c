"""A key that is bound to queues and types works on such jobs alone."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from service.remote.routes import FRESH_SECONDS
from tests.api.conftest import Auth
from tests.jobs.waiting import until_true
from tests.remote.conftest import Call, lease
from tests.remote.test_claims import gateway_of


@pytest.fixture
async def bound(client: httpx.AsyncClient, auth: Auth) -> dict[str, str]:
    """Headers of a key for jobs of the type `mail` in the queue `billing`."""
    body = {"name": "worker", "scopes": ["jobs:work"], "job_types": ["mail"], "queues": ["billing"]}
    made = await client.post("/admin/api-keys", json=body, headers=auth("admin"))
    return {"x-api-key": made.json()["key"]}


async def test_a_bound_key_claims_what_its_scope_names(
    call: Call, enqueue: Call, bound: dict[str, str]
) -> None:
    inside = await enqueue(queue="billing")
    await enqueue()
    await enqueue(queue="billing", job_type="other")
    claimed = await call("claim", limit=10, headers=bound)
    assert [job["id"] for job in claimed["jobs"]] == [inside]
    for body, words in (
        ({"job_types": ["other"]}, "job_type 'other' is not one that your API key may use: mail"),
        ({"queues": ["default"]}, "queue 'default' is not one that your API key may use: billing"),
    ):
        for path in ("claim", "register"):
            refused = await call(path, status=403, headers=bound, **body)
            assert refused["detail"] == words


async def test_a_bound_key_reports_nothing_about_other_jobs(
    call: Call, enqueue: Call, bound: dict[str, str]
) -> None:
    await enqueue()
    job = (await call("claim", worker="other:1"))["jobs"][0]
    told = await call("complete", jobs=[lease(job)], headers=bound)
    assert told["jobs"][0]["outcome"] == "lease_lost"
    beat = await call("heartbeat", jobs=[lease(job)], headers=bound)
    assert beat["jobs"][0]["state"] == "lease_lost"
    assert (await call("complete", jobs=[lease(job)]))["jobs"][0]["outcome"] == "recorded"
    told = await call("complete", jobs=[lease(job)], headers=bound)
    assert told["jobs"][0]["outcome"] == "lease_lost"


async def test_the_services_own_jobs_are_not_to_be_claimed(call: Call) -> None:
    refused = await call("claim", status=403, job_types=["finmind.operation"])
    assert "belongs to the service" in refused["detail"]


async def test_a_claim_that_waits_brings_nothing_to_a_key_that_was_revoked_meanwhile(
    app: FastAPI, call: Call, enqueue: Call, bound: dict[str, str], client: httpx.AsyncClient,
    auth: Auth,
) -> None:  # fmt: skip
    waiting = asyncio.create_task(call("claim", status=401, headers=bound, wait_seconds=20.0))
    await until_true(lambda: gateway_of(app).waiting == 1)
    prefix = bound["x-api-key"].partition(".")[0].removeprefix("fmj_")
    await client.delete(f"/admin/api-keys/{prefix}", headers=auth("admin"))
    await asyncio.sleep(FRESH_SECONDS)  # what was asked for just before is answered
    made = await enqueue(queue="billing")
    assert "revoked" in (await waiting)["detail"]
    (job,) = (await call("claim", wait_seconds=10.0))["jobs"]
    assert (job["id"], job["attempt"]) == (made, 1)
