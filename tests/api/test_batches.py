"""Batches and chains over HTTP."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.api.batch_schemas import EXAMPLE_IN
from service.demo import CountedPayload, DemoPayload
from service.jobs import Registry, process_due_jobs
from service.jobs.core.job_types import JobTypePolicy, policies
from service.settings import Settings
from tests.api.conftest import Auth
from tests.api.shapes import assert_problem, jobs_in
from tests.api.test_callers import key_with

LATER = {"job_type": "mail", "run_at": "2199-01-01T00:00:00Z"}
BATCH: dict[str, Any] = {
    "name": "letters",
    "on_complete": {"job_type": "report", "payload": {"month": 3}, "max_retries": 1},
}


async def batch_of(client: httpx.AsyncClient, headers: dict[str, str], batch_id: int) -> Any:
    answer = await client.get(f"/batches/{batch_id}", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_batch_is_made_filled_closed_and_completed(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI, api_settings: Settings
) -> None:
    ann = auth("service", "ann")
    made = await client.post("/batches", json=BATCH, headers=ann)
    assert made.status_code == 201, made.text
    batch = made.json()
    assert (batch["state"], batch["created_by"], batch["counts"]["jobs"]) == ("open", "ann", 0)
    path = f"/batches/{batch['id']}"
    jobs = {"jobs": [{"job_type": "mail"}, {"job_type": "mail"}]}
    added = await client.post(f"{path}/jobs", json=jobs, headers=ann)
    assert (added.status_code, added.json()["created"]) == (201, 2)
    one = await client.post(
        "/jobs", json={"job_type": "mail", "batch_id": batch["id"]}, headers=ann
    )
    assert one.json()["batch_id"] == batch["id"]
    closed = (await client.post(f"{path}/close", headers=ann)).json()
    assert (closed["state"], closed["counts"]["pending"]) == ("closed", 3)
    handlers, told = Registry(), []

    @handlers.handler("mail")
    async def mail(payload: Any) -> None: ...

    @handlers.handler("report")
    async def report(payload: Any) -> None:
        told.append(payload)

    database = app.state.service.database
    while not told:
        await process_due_jobs(database, settings=api_settings, handlers=handlers)
    batch = await batch_of(client, ann, batch["id"])
    assert (batch["state"], batch["counts"]["succeeded"]) == ("complete", 3)
    assert told[0]["month"] == 3
    assert (told[0]["batch"]["id"], told[0]["batch"]["succeeded"]) == (batch["id"], 3)
    job = (await client.get(f"/jobs/{batch['complete_job_id']}", headers=ann)).json()
    assert (job["job_type"], job["max_retries"]) == ("report", 1)


async def test_a_job_whose_handler_would_refuse_the_counts_of_the_batch_is_refused(
    client: httpx.AsyncClient, auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, model in (("strict", DemoPayload), ("demo.ok", CountedPayload)):
        monkeypatch.setitem(policies, name, JobTypePolicy(payload_model=model))
    ann = auth("service", "ann")
    for member in ("on_complete", "on_failure"):
        body = {"name": "letters", member: {"job_type": "strict"}}
        answer = await client.post("/batches", json=body, headers=ann)
        (error,) = assert_problem(answer, 422)["errors"]
        assert error["field"] == f"body.{member}.payload.batch"
    assert (await client.post("/batches", json=EXAMPLE_IN, headers=ann)).status_code == 201


async def test_nobody_adds_to_or_ends_the_batch_of_another(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    ann, bob = auth("service", "ann"), auth("service", "bob")
    batch_id = (await client.post("/batches", json=BATCH, headers=ann)).json()["id"]
    for verb in ("close", "cancel", "jobs"):
        body = {"jobs": [LATER]} if verb == "jobs" else None
        answer = await client.post(f"/batches/{batch_id}/{verb}", json=body, headers=bob)
        assert_problem(answer, 404)
    answer = await client.post("/jobs", json=LATER | {"batch_id": batch_id}, headers=bob)
    unknown = await client.post("/jobs", json=LATER | {"batch_id": 99}, headers=bob)
    assert answer.status_code == unknown.status_code == 422
    assert answer.json()["errors"][0]["field"] == "body.batch_id"
    assert await jobs_in(app) == []
    limited = {"X-API-Key": (await _limited(client, auth))}
    assert (await client.get(f"/batches/{batch_id}", headers=limited)).status_code == 404
    assert (await client.get("/batches", headers=limited)).json()["batches"] == []


async def _limited(client: httpx.AsyncClient, auth: Auth) -> str:
    body = {"name": "k", "scopes": ["jobs:read"], "queues": ["mail"]}
    made = await client.post("/admin/api-keys", json=body, headers=auth("admin"))
    assert made.status_code == 201, made.text
    key: str = made.json()["key"]
    return key


async def test_a_closed_batch_is_a_conflict_and_a_cancelled_one_is_closed(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    ann = auth("service", "ann")
    batch_id = (await client.post("/batches", json=BATCH, headers=ann)).json()["id"]
    await client.post(f"/batches/{batch_id}/jobs", json={"jobs": [LATER]}, headers=ann)
    cancelled = await client.post(f"/batches/{batch_id}/cancel", headers=ann)
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    answer = await client.post(f"/batches/{batch_id}/jobs", json={"jobs": [LATER]}, headers=ann)
    assert_problem(answer, 409)
    again = await client.post(f"/batches/{batch_id}/cancel", headers=auth("operator"))
    assert again.status_code == 403


async def test_batches_are_listed_newest_first(client: httpx.AsyncClient, auth: Auth) -> None:
    ann = auth("service", "ann")
    for number in range(52):
        await client.post("/batches", json={"name": str(number)}, headers=ann)
    first = (await client.get("/batches?unfinished=true", headers=ann)).json()
    assert [batch["name"] for batch in first["batches"]][:2] == ["51", "50"]
    cursor = first["next_cursor"]
    rest = (await client.get(f"/batches?unfinished=true&cursor={cursor}", headers=ann)).json()
    assert [batch["name"] for batch in rest["batches"]] == ["1", "0"]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "b", "on_complete": {"job_type": "x", "run_at": "2199-01-01T00:00:00Z"}},
        {"name": "b", "on_complete": {"job_type": "no such name"}},
    ],
)
async def test_a_batch_that_breaks_a_rule_is_a_422(
    client: httpx.AsyncClient, auth: Auth, body: Any
) -> None:
    assert_problem(await client.post("/batches", json=body, headers=auth("service")), 422)


async def test_the_jobs_of_a_batch_are_the_services_own_for_nobody(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    body = {"name": "b", "on_complete": {"job_type": "finmind.operation"}}
    answer = await client.post("/batches", json=body, headers=auth("service"))
    assert answer.status_code in {201, 403}


async def test_a_chain_is_one_request_and_its_jobs_know_each_other(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    ann = auth("service", "ann")
    body = {"jobs": [LATER, LATER, LATER | {"on_parent_failure": "run"}]}
    key = ann | {"Idempotency-Key": "chain"}
    made = await client.post("/jobs/chain", json=body, headers=key)
    assert made.status_code == 201, made.text
    first, second, third = made.json()["ids"]
    again = await client.post("/jobs/chain", json=body, headers=key)
    assert (again.status_code, again.json()["ids"]) == (200, [first, second, third])
    parents = (await client.get(f"/jobs/{third}/parents", headers=ann)).json()
    assert parents == {
        "jobs": [
            {"id": second, "job_type": "mail", "queue": "default", "status": "PENDING",
             "on_parent_failure": "run"}
        ],
        "more": False,
    }  # fmt: skip
    children = (await client.get(f"/jobs/{first}/children", headers=ann)).json()
    assert [child["id"] for child in children["jobs"]] == [second]
    assert_problem(await client.get("/jobs/99999/parents", headers=ann), 404)


async def test_the_same_key_and_body_are_another_request_where_they_are_no_chain(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    key = auth("service", "ann") | {"Idempotency-Key": "k"}
    body = {"jobs": [LATER | {"on_conflict": "return"}, LATER]}
    assert (await client.post("/jobs/batch", json=body, headers=key)).status_code == 201
    assert_problem(await client.post("/jobs/chain", json=body, headers=key), 409)


@pytest.mark.parametrize("keys", [("new", "taken"), ("new", "new")])
async def test_a_chain_refuses_a_job_whose_unique_key_is_held(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI, keys: tuple[str, str]
) -> None:
    ann = auth("service", "ann")
    await client.post("/jobs", json=LATER | {"unique_key": "taken"}, headers=ann)
    body = {"jobs": [LATER | {"unique_key": key} for key in keys]}
    answer = await client.post("/jobs/chain", json=body, headers=ann)
    assert_problem(answer, 409)
    assert "Job 1: job" in answer.json()["detail"]
    assert len(await jobs_in(app)) == 1


async def test_a_chain_refuses_parents_in_its_middle(client: httpx.AsyncClient, auth: Auth) -> None:
    ann = auth("service", "ann")
    parent = (await client.post("/jobs", json=LATER, headers=ann)).json()["id"]
    body = {"jobs": [LATER | {"after": [parent]}, LATER | {"after": [parent]}]}
    answer = await client.post("/jobs/chain", json=body, headers=ann)
    assert_problem(answer, 422)
    assert answer.json()["errors"][0]["field"] == "body.jobs.1.after"


async def test_a_key_with_limits_sees_no_types_that_it_may_not_read(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    ann = auth("service", "ann")
    parent = (await client.post("/jobs", json=LATER | {"queue": "secret"}, headers=ann)).json()[
        "id"
    ]
    child = LATER | {"queue": "mail", "after": [parent]}
    child_id = (await client.post("/jobs", json=child, headers=ann)).json()["id"]
    limited = {"X-API-Key": (await _limited(client, auth))}
    seen = (await client.get(f"/jobs/{child_id}/parents", headers=limited)).json()["jobs"]
    assert [(one["id"], one["job_type"], one["status"]) for one in seen] == [(parent, None, None)]
    writer = await key_with(client, auth, "jobs:write")
    assert (await client.get(f"/jobs/{child_id}/parents", headers=writer)).status_code == 403
