"""Jobs that wait for other jobs, over HTTP."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from tests.api.conftest import Auth
from tests.api.shapes import assert_problem
from tests.api.test_callers import key_with

JOB: dict[str, Any] = {"job_type": "mail", "queue": "later", "run_at": "2199-01-01T00:00:00Z"}


async def made(client: httpx.AsyncClient, headers: dict[str, str], **more: Any) -> int:
    answer = await client.post("/jobs", json=JOB | more, headers=headers)
    assert answer.status_code == 201, answer.text
    job_id: int = answer.json()["id"]
    return job_id


async def held(app: FastAPI) -> list[int]:
    async with app.state.service.database.engine.begin() as connection:
        rows = await connection.execute(
            text("SELECT id FROM finmind_jobs.jobs_live WHERE held_for = 'after' ORDER BY id")
        )
        return [row[0] for row in rows]


async def test_a_job_waits_for_those_that_it_names_whichever_way_it_comes(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    ann = auth("service", "ann")
    parent = await made(client, ann)
    direct = await made(client, ann, after=[parent])
    keyed = await made(client, ann | {"Idempotency-Key": "k"}, after=[parent])
    batch = await client.post(
        "/jobs/batch", json={"jobs": [JOB, JOB | {"after": [parent, direct]}]}, headers=ann
    )
    assert await held(app) == [direct, keyed, batch.json()["ids"][1]]
    job = (await client.get(f"/jobs/{direct}", headers=ann)).json()
    assert (job["status"], job["next_run_at"]) == ("PENDING", "2199-01-01T00:00:00Z")


async def test_unknown_parents_are_a_422_that_names_them(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    ann = auth("service", "ann")
    answer = await client.post("/jobs", json=JOB | {"after": [9998, 9999]}, headers=ann)
    assert_problem(answer, 422)
    [error] = answer.json()["errors"]
    assert error["field"] == "body.after"
    assert "9998, 9999" in error["message"]
    answer = await client.post(
        "/jobs/batch", json={"jobs": [JOB, JOB | {"after": [9999]}]}, headers=ann
    )
    assert answer.json()["errors"][0]["field"] == "body.jobs.1.after"


async def test_a_caller_names_its_own_jobs_and_those_that_it_may_read(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    others = await made(client, auth("service", "ann"))
    writer = await key_with(client, auth, "jobs:write")
    own = await made(client, writer)
    assert await made(client, writer, after=[own])
    hidden = await client.post("/jobs", json=JOB | {"after": [others]}, headers=writer)
    missing = await client.post("/jobs", json=JOB | {"after": [9999]}, headers=writer)
    assert hidden.status_code == missing.status_code == 422
    told = [answer.json()["errors"] for answer in (hidden, missing)]
    assert str(told[0]).replace(f": {others}", ": 9999") == str(told[1])


@pytest.mark.parametrize(
    "more",
    [
        {"after": ["x"]},
        {"after": [1], "on_parent_failure": "ignore"},
        {"on_parent_failure": "run"},
        {"after": [0]},
    ],
)
async def test_what_breaks_a_rule_is_a_422(
    client: httpx.AsyncClient, auth: Auth, more: dict[str, Any]
) -> None:
    answer = await client.post("/jobs", json=JOB | more, headers=auth("service"))
    assert_problem(answer, 422)


async def test_a_held_job_keeps_waiting_whenever_it_is_made_due(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    parent = await made(client, auth("service"))
    child = await made(client, auth("service"), after=[parent])
    operator = auth("admin")
    answer = await client.post(f"/admin/jobs/{child}/run-now", headers=operator)
    assert answer.status_code == 200
    answer = await client.patch(f"/admin/jobs/{child}", json={"priority": 7}, headers=operator)
    assert answer.json()["priority"] == 7
    assert answer.json()["next_run_at"] < "2190"
    assert await held(app) == [child]
