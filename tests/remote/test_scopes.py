"""A key that is bound to queues and types works on such jobs alone."""

import httpx
import pytest

from tests.api.conftest import Auth
from tests.remote.conftest import Call, lease


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
