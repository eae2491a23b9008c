"""Whose jobs are whose: what one caller meets of another's, and what it may read."""

import hashlib
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.api.new_job_schemas import JobIn
from service.jobs import NewJob, PermanentError, Registry, enqueue, enqueue_batch, process_due_jobs
from service.jobs.core.idempotency_key import IdempotencyKey
from service.jobs.enqueue.idempotency import submit
from service.settings import Settings
from tests.api.conftest import Auth
from tests.api.shapes import assert_problem, jobs_in

JOB = {"job_type": "mail", "payload": {"to": "ann"}, "unique_key": "invoice-4711"}
KEPT_BY_THE_VERSION_BEFORE = bytes.fromhex(
    "bcb109e695aba85a6bddc19d36ec303d98706a2fa7f9d8a85ac3c9d74dc4c8ae"
)
"""What the version before wrote as `body_hash` of `JOB`."""


@pytest.fixture
def api_settings(make_settings: Any, pg_dsn: str, request: pytest.FixtureRequest) -> Settings:
    options: dict[str, Any] = getattr(request, "param", {})
    settings: Settings = make_settings(database_url=pg_dsn, **options)
    return settings


async def sql(app: FastAPI, statement: str, **values: object) -> list[Any]:
    async with app.state.service.database.engine.begin() as connection:
        result = await connection.execute(text(statement), values)
        return list(result.all()) if result.returns_rows else []


async def key_with(client: httpx.AsyncClient, auth: Auth, *scopes: str) -> dict[str, str]:
    made = await client.post(
        "/admin/api-keys", json={"name": "k", "scopes": scopes}, headers=auth("admin")
    )
    return {"X-API-Key": made.json()["key"]}


# -- unique keys ----------------------------------------------------------------------------------


async def test_a_live_job_of_another_caller_is_a_conflict_without_details(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    squat = JOB | {"queue": "nobody-serves-this", "run_at": "2199-01-01T00:00:00Z"}
    holder = await client.post("/jobs", json=squat, headers=auth("service", "mallory"))
    assert holder.status_code == 201
    same = {name: squat[name] for name in ("job_type", "payload", "unique_key")}
    for asked in (same, same | {"payload": {"to": "bob"}}, squat):
        one = await client.post("/jobs", json=asked, headers=auth("service", "ann"))
        keyed = await client.post(
            "/jobs", json=asked, headers=auth("service", "ann") | {"Idempotency-Key": "k"}
        )
        batch = await client.post(
            "/jobs/batch", json={"jobs": [asked]}, headers=auth("service", "ann")
        )
        for answer in (one, keyed, batch):
            detail = assert_problem(answer, 409)["detail"]
            assert "another caller" in detail
            for words in (f"job {holder.json()['id']}", "nobody-serves", "2199", "mallory"):
                assert words not in detail.lower()
    assert await jobs_in(app) == [holder.json()["id"]]


async def test_a_caller_gets_its_live_job_with_any_of_its_credentials(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    first = await client.post("/jobs", json=JOB, headers=auth("service", "ann"))
    for headers in (auth("service", "ann"), auth("admin", "ann", lasting=90)):
        again = await client.post("/jobs", json=JOB, headers=headers)
        assert (again.status_code, again.json()) == (200, first.json())
        batch = await client.post("/jobs/batch", json={"jobs": [JOB]}, headers=headers)
        assert batch.json() == {"ids": [first.json()["id"]], "created": 0}


async def test_a_job_enqueued_by_sql_or_python_is_everybodys(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    by_sql = await sql(
        app,
        "INSERT INTO background_jobs (job_type, payload, unique_key)"
        """ VALUES ('mail', '{"to": "ann"}', 'sql') RETURNING id""",
    )
    async with app.state.service.database.sessions.begin() as session:
        by_python = await enqueue(session, "mail", {"to": "ann"}, unique_key="python")
    for key, job_id in (("sql", by_sql[0][0]), ("python", by_python.id)):
        for caller in ("ann", "bob"):
            answer = await client.post(
                "/jobs", json=JOB | {"unique_key": key}, headers=auth("service", caller)
            )
            assert (answer.status_code, answer.json()["id"]) == (200, job_id)


async def test_python_finds_the_holder_of_a_key_whoever_enqueued_it(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    holder = await client.post("/jobs", json=JOB, headers=auth("service", "ann"))
    async with app.state.service.database.sessions.begin() as session:
        [found] = await enqueue_batch(session, [NewJob("mail", unique_key="invoice-4711")])
    assert (found.created, found.id) == (False, holder.json()["id"])


@pytest.mark.parametrize("api_settings", [{"share_unique_keys": True}], indirect=True)
async def test_a_setting_lets_callers_share_their_unique_keys(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    first = await client.post("/jobs", json=JOB, headers=auth("service", "ann"))
    again = await client.post("/jobs", json=JOB, headers=auth("service", "bob"))
    batch = await client.post("/jobs/batch", json={"jobs": [JOB]}, headers=auth("service", "bob"))
    assert (again.status_code, again.json()) == (200, first.json())
    assert batch.json()["ids"] == [first.json()["id"]]


async def test_who_may_only_write_is_not_shown_what_became_of_the_holder_of_a_key(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    writer = await key_with(client, auth, "jobs:write")
    reader = await key_with(client, auth, "jobs:write", "jobs:read")
    for headers in (writer, reader):
        key = headers["X-API-Key"][:9]
        body = JOB | {"unique_key": key}
        once = headers | {"Idempotency-Key": "once"}
        made = (await client.post("/jobs", json=body, headers=once)).json()
        await sql(
            app,
            "UPDATE background_jobs SET last_error = 'secret', progress = '\"secret\"',"
            " result = '\"secret\"' WHERE id = :id",
            id=made["id"],
        )
        for asked in (headers, once):
            again = await client.post("/jobs", json=body, headers=asked)
            assert (again.status_code, again.json()["id"]) == (200, made["id"])
            assert ("secret" in again.text) is (headers is reader)


async def test_a_job_knows_its_caller_through_its_end_and_a_retry(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    headers, operator = auth("service", "ann"), auth("operator")
    job_id = (await client.post("/jobs", json=JOB, headers=headers)).json()["id"]
    batch = await client.post("/jobs/batch", json={"jobs": [{"job_type": "x"}]}, headers=headers)

    async def owner(one: int) -> Any:
        return (await client.get(f"/admin/jobs/{one}", headers=operator)).json()["enqueued_by"]

    assert await owner(batch.json()["ids"][0]) == "ann"
    # Nobody serves the type: one pass ends the job.
    await client.post("/admin/jobs/process", headers=operator)
    assert (await sql(app, "SELECT status FROM background_jobs WHERE id = :id", id=job_id)) == [
        ("FAILED",)
    ]
    assert await owner(job_id) == "ann"
    await client.post(f"/admin/jobs/{job_id}/retry", headers=operator)
    assert await owner(job_id) == "ann"
    await client.post(f"/admin/jobs/{job_id}/cancel", headers=operator)
    assert await owner(job_id) == "ann"

    handlers = Registry()
    ends = {"ok": None, "bad": PermanentError("no"), "again": RuntimeError("once more")}

    async def end(payload: dict[str, str]) -> None:
        if error := ends[payload["end"]]:
            raise error

    handlers.handler("mail")(end)
    for payload, status in (("ok", "SUCCESS"), ("bad", "FAILED"), ("again", "PENDING")):
        body = {"job_type": "mail", "payload": {"end": payload}}
        job_id = (await client.post("/jobs", json=body, headers=headers)).json()["id"]
        database, settings = app.state.service.database, app.state.service.settings
        await process_due_jobs(database, 10, settings=settings, handlers=handlers)
        detail = (await client.get(f"/admin/jobs/{job_id}", headers=operator)).json()
        assert (detail["status"], detail["enqueued_by"]) == (status, "ann")


# -- idempotency keys -----------------------------------------------------------------------------


def sent_again(sent: object, model: object) -> IdempotencyKey:
    return IdempotencyKey.of(sent, model=model, owner="ann", key="k")


async def test_new_optional_fields_keep_idempotency_keys_valid(
    app: FastAPI,
) -> None:
    today = JobIn.model_validate(JOB).model_dump()
    tomorrow = today | {"an_added_field": None}
    for before, after in ((today, tomorrow), (tomorrow, today)):
        made, found = [await once(app, sent_again(JOB, model)) for model in (before, after)]
        assert (made.repeated, found.repeated, found.ids) == (False, True, made.ids)
        await sql(app, "DELETE FROM idempotency_keys")
        await sql(app, "DELETE FROM background_jobs")


async def once(app: FastAPI, key: IdempotencyKey) -> Any:
    async with app.state.service.database.sessions.begin() as session:
        job = NewJob("mail", {"to": "ann"})
        settings = app.state.service.settings
        return await submit(session, [job], caller="ann", settings=settings, key=key)


async def test_a_key_of_the_version_before_still_names_its_request(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    headers = auth("service", "ann") | {"Idempotency-Key": "k"}
    [(job_id,)] = await sql(
        app, "INSERT INTO background_jobs (job_type) VALUES ('mail') RETURNING id"
    )
    await sql(
        app,
        "INSERT INTO idempotency_keys (owner, key, body_hash, job_ids)"
        " VALUES ('ann', 'k', :body_hash, ARRAY[:id]::bigint[])",
        body_hash=KEPT_BY_THE_VERSION_BEFORE,
        id=job_id,
    )
    again = await client.post("/jobs", json=JOB, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, job_id)
    assert_problem(await client.post("/jobs", json=JOB | {"priority": 1}, headers=headers), 409)


async def test_the_version_before_knows_the_keys_of_this_one(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    headers = auth("service", "ann") | {"Idempotency-Key": "k"}
    assert (await client.post("/jobs", json=JOB, headers=headers)).status_code == 201
    [(body_hash,)] = await sql(app, "SELECT body_hash FROM idempotency_keys")
    assert body_hash == KEPT_BY_THE_VERSION_BEFORE


async def test_keys_written_by_the_version_before_still_count(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    headers = auth("service", "ann") | {"Idempotency-Key": "k"}
    assert (await client.post("/jobs", json=JOB, headers=headers)).status_code == 201
    # Its time was up, and a process of the version before took it for another request.
    other = hashlib.sha256(json.dumps({"another": "request"}).encode()).digest()
    await sql(app, "UPDATE idempotency_keys SET body_hash = :other", other=other)
    assert_problem(await client.post("/jobs", json=JOB, headers=headers), 409)
