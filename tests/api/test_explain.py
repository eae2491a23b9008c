"""`GET /jobs/{id}/explain`: why a job is not running."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from service.api.explain_examples import EXAMPLES
from service.api.explain_schemas import ExplanationOut
from service.audit import Actor
from service.jobs.queues import pause_queue
from service.jobs.read.waiting import Waiting
from tests.api.conftest import Auth
from tests.jobs.read.test_explain import held, permit, running, worker
from tests.jobs.rows import add

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
async def sql(app: FastAPI) -> AsyncIterator[AsyncSession]:
    async with app.state.service.database.sessions() as session:
        yield session


async def explained(client: httpx.AsyncClient, job: int, headers: dict[str, str]) -> Any:
    answer = await client.get(f"/jobs/{job}/explain", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_every_reason_has_an_example_that_is_an_answer() -> None:
    shown = {ExplanationOut.model_validate(one["value"]).waiting_for for one in EXAMPLES.values()}
    assert shown == {None, *Waiting}


async def test_it_says_what_a_job_waits_for_and_what_to_do(
    client: httpx.AsyncClient, auth: Auth, sql: AsyncSession
) -> None:
    job = await add(sql, next_run_at=NOW - HOUR)
    await pause_queue(sql, "default", actor=Actor("olga"), reason="the bank is down")
    await sql.commit()
    said = await explained(client, job, auth("service"))
    assert (said["id"], said["status"], said["waiting_for"]) == (job, "PENDING", "queue_paused")
    assert said["detail"]["pause"]["by"] == "olga"
    assert said["detail"]["also"] == ["worker"]
    assert said["detail"]["behind"] == {"jobs": 0, "exact": True}
    assert said["estimate"] is None
    assert len(said["advice"]) == 2
    assert "the bank is down" in said["summary"]


async def test_names_of_workers_are_for_those_who_may_read_workers(
    client: httpx.AsyncClient, auth: Auth, sql: AsyncSession
) -> None:
    by = await worker(sql, "web-1:831:c0ffee")
    await permit(sql, "key:k", limit=1, running=1)
    runs = await running(sql, NOW, by, permits=["key:k"])
    waits = await held(sql, "key:k", since=NOW)
    await sql.commit()
    for role, seen in (("viewer", True), ("service", False)):
        answers = [await explained(client, job, auth(role)) for job in (runs, waits)]
        assert ("c0ffee" in str(answers)) is seen
        run, wait = (answer["detail"] for answer in answers)
        assert run["run"]["timeout_seconds"] is None
        assert [one["id"] for one in wait["limit"]["holders"]] == [runs]
        assert wait["workers"]["serving"] == 1


async def test_a_key_with_limits_sees_its_own_jobs_alone(
    client: httpx.AsyncClient, auth: Auth, sql: AsyncSession
) -> None:
    by = await worker(sql)
    await permit(sql, "key:k", limit=2, running=2)
    await running(sql, NOW, by, permits=["key:k"], queue="other")
    own = await running(sql, NOW, by, permits=["key:k"])
    mine = await held(sql, "key:k", since=NOW)
    other = await held(sql, "key:k", since=NOW, queue="other")
    await sql.commit()
    made = await client.post(
        "/admin/api-keys",
        json={"name": "shop", "scopes": ["jobs:read"], "queues": ["default"]},
        headers=auth("admin"),
    )
    key = {"authorization": f"Bearer {made.json()['key']}"}
    limit = (await explained(client, mine, key))["detail"]["limit"]
    assert (limit["running"], [one["id"] for one in limit["holders"]]) == (2, [own])
    assert (await client.get(f"/jobs/{other}/explain", headers=key)).status_code == 404


async def test_a_job_that_is_not_there_is_404(client: httpx.AsyncClient, auth: Auth) -> None:
    answer = await client.get("/jobs/1/explain", headers=auth("service"))
    assert answer.status_code == 404


async def test_the_list_says_what_each_job_waits_for(
    client: httpx.AsyncClient, auth: Auth, sql: AsyncSession
) -> None:
    by = await worker(sql)
    await running(sql, NOW, by)
    await add(sql, next_run_at=NOW - HOUR)
    await add(sql, next_run_at=NOW + HOUR)
    await add(sql, next_run_at=NOW - HOUR, job_type="sms")
    await held(sql, "key:k", since=NOW)
    await sql.commit()
    answer = await client.get("/admin/jobs", headers=auth("viewer"))
    found = [job["waiting_for"] for job in answer.json()["jobs"]]
    assert found == ["concurrency", "worker", "time", None, None]


async def test_held_jobs_are_found_by_the_filters_of_lists_and_operations(
    client: httpx.AsyncClient, auth: Auth, sql: AsyncSession
) -> None:
    job = await held(sql, "key:customer:7", since=NOW, concurrency_key="customer:7")
    await add(sql, next_run_at=NOW - HOUR)
    await sql.commit()
    for query in (
        {"held_for": "*"},
        {"held_for": "key:customer:7"},
        {"concurrency_key": "customer:7"},
        {"q": "held:key"},
        {"q": "concurrency:customer:7"},
    ):
        answer = await client.get("/admin/jobs", params=query, headers=auth("viewer"))
        assert [one["id"] for one in answer.json()["jobs"]] == [job], query
        preview = await client.post(
            "/admin/operations/preview",
            json={"action": "cancel", "filter": query},
            headers=auth("operator"),
        )
        assert (preview.status_code, preview.json()["count"]) == (200, 1), query
