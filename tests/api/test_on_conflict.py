"""`on_conflict` over HTTP: what a request with a held `unique_key` is answered with."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.api.conftest import Auth
from tests.api.shapes import assert_problem, jobs_in
from tests.api.test_jobs import JOB

KEYED: dict[str, Any] = JOB | {"unique_key": "k"}


@pytest.fixture
def service(auth: Auth) -> dict[str, str]:
    return auth("service", "ann")


async def shown(client: httpx.AsyncClient, service: dict[str, str]) -> Any:
    """The newest job with the key, as its owner sees it."""
    found = await client.get("/jobs", params={"unique_key": "k"}, headers=service)
    return found.json()["jobs"][0]


async def test_reject_is_a_409_that_names_the_key_the_holder_and_the_way_out(
    client: httpx.AsyncClient, service: dict[str, str], app: FastAPI
) -> None:
    first = (await client.post("/jobs", json=KEYED, headers=service)).json()
    answer = await client.post("/jobs", json=KEYED | {"on_conflict": "reject"}, headers=service)
    problem = assert_problem(answer, 409)
    assert problem["type"].endswith(":unique-key-held")
    assert f"'k' is held by job {first['id']}, which is PENDING" in problem["detail"]
    assert await jobs_in(app) == [first["id"]]


async def test_replace_answers_200_with_the_holder_as_it_is_now(
    client: httpx.AsyncClient, service: dict[str, str], app: FastAPI
) -> None:
    body = KEYED | {"on_conflict": "replace"}
    first = await client.post("/jobs", json=body, headers=service)
    newer = body | {"payload": {"to": "bob"}, "priority": 7}
    second = await client.post("/jobs", json=newer, headers=service)
    assert (first.status_code, second.status_code) == (201, 200)
    job = second.json()
    assert (job["id"], job["payload"], job["priority"]) == (first.json()["id"], {"to": "bob"}, 7)
    assert second.headers["location"] == first.headers["location"]
    assert await jobs_in(app) == [job["id"]]


async def test_extend_with_another_payload_is_a_conflict_and_moves_nothing(
    client: httpx.AsyncClient, service: dict[str, str]
) -> None:
    body = KEYED | {"on_conflict": "extend", "delay_seconds": 100}
    first = (await client.post("/jobs", json=body, headers=service)).json()
    other = body | {"payload": {"to": "bob"}, "delay_seconds": 900}
    assert_problem(await client.post("/jobs", json=other, headers=service), 409)
    assert (await shown(client, service))["next_run_at"] == first["next_run_at"]
    moved = await client.post("/jobs", json=body | {"delay_seconds": 900}, headers=service)
    assert moved.status_code == 200
    assert moved.json()["next_run_at"] > first["next_run_at"]


@pytest.mark.parametrize("policy", ["reject", "replace", "extend"])
async def test_the_job_of_another_caller_is_neither_changed_nor_named(
    client: httpx.AsyncClient, service: dict[str, str], auth: Auth, policy: str
) -> None:
    first = (await client.post("/jobs", json=KEYED, headers=service)).json()
    body = KEYED | {"on_conflict": policy, "priority": 9}
    answer = await client.post("/jobs", json=body, headers=auth("service", "bob"))
    problem = assert_problem(answer, 409)
    assert "another caller" in problem["detail"]
    assert str(first["id"]) not in problem["detail"]
    assert (await shown(client, service))["priority"] == first["priority"]


async def test_a_request_repeated_with_its_idempotency_key_replaces_nothing_again(
    client: httpx.AsyncClient, service: dict[str, str]
) -> None:
    keyed = service | {"Idempotency-Key": "once"}
    body = KEYED | {"on_conflict": "replace"}
    first = await client.post("/jobs", json=body, headers=keyed)
    newer = await client.post("/jobs", json=body | {"payload": {"n": 2}}, headers=service)
    again = await client.post("/jobs", json=body, headers=keyed)
    assert (first.status_code, newer.status_code, again.status_code) == (201, 200, 200)
    assert again.json()["payload"] == {"n": 2}


async def test_keep_latest_stores_one_job_and_its_newest_payload(
    client: httpx.AsyncClient, service: dict[str, str], app: FastAPI
) -> None:
    body = KEYED | {"on_conflict": "keep_latest"}
    first = await client.post("/jobs", json=body, headers=service)
    second = await client.post("/jobs", json=body | {"payload": {"n": 2}}, headers=service)
    assert (first.status_code, second.status_code) == (201, 200)
    assert (first.json()["held_for"], second.json()["payload"]) == (None, {"n": 2})
    assert await jobs_in(app) == [first.json()["id"]]


async def test_a_key_is_held_for_its_time_even_if_its_job_has_ended(
    client: httpx.AsyncClient, service: dict[str, str], auth: Auth
) -> None:
    body = KEYED | {"unique_for_seconds": 3600.0}
    first = (await client.post("/jobs", json=body, headers=service)).json()
    await client.post(f"/admin/jobs/{first['id']}/cancel", headers=auth("operator"))
    again = await client.post("/jobs", json=body, headers=service)
    assert (again.status_code, again.json()["status"]) == (200, "CANCELLED")
    assert again.json()["id"] == first["id"]
    refused = await client.post("/jobs", json=body | {"on_conflict": "reject"}, headers=service)
    assert "until" in assert_problem(refused, 409)["detail"]
    theirs = await client.post("/jobs", json=body, headers=auth("service", "bob"))
    assert "another caller" in assert_problem(theirs, 409)["detail"]
    await client.delete(f"/admin/jobs/{first['id']}", headers=auth("admin"))
    gone = await client.post("/jobs", json=body, headers=service)
    assert "has been removed" in assert_problem(gone, 409)["detail"]


async def test_the_key_that_is_made_of_a_job_is_shown(
    client: httpx.AsyncClient, service: dict[str, str]
) -> None:
    body = JOB | {"unique_by": ["payload.to"], "unique_scope": "until_started"}
    first = await client.post("/jobs", json=body, headers=service)
    second = await client.post("/jobs", json=body, headers=service)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["unique_key"] == 'by:{"job_type":"mail","payload.to":"ann"}'
    assert second.json() == first.json()


async def test_a_batch_follows_the_policies_in_its_order(
    client: httpx.AsyncClient, service: dict[str, str], app: FastAPI
) -> None:
    jobs = [KEYED | {"on_conflict": "replace", "payload": {"n": n}} for n in range(3)]
    answer = await client.post("/jobs/batch", json={"jobs": jobs}, headers=service)
    assert answer.status_code == 201
    assert answer.json()["created"] == 1
    (job_id,) = set(answer.json()["ids"])
    shown = await client.get(f"/jobs/{job_id}", headers=service)
    assert shown.json()["payload"] == {"n": 2}
    refused = [JOB, KEYED | {"on_conflict": "reject"}]
    answer = await client.post("/jobs/batch", json={"jobs": refused}, headers=service)
    assert assert_problem(answer, 409)["detail"].startswith("Job 1: unique_key 'k'")
    assert await jobs_in(app) == [job_id]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"on_conflict": "overwrite"}, "body.on_conflict"),
        ({"on_conflict": None}, "body.on_conflict"),
        ({"on_conflict": "replace", "unique_key": None}, "body.on_conflict"),
        ({"debounce_max_seconds": 5.0}, "body.debounce_max_seconds"),
        ({"on_conflict": "extend", "debounce_max_seconds": 0}, "body.debounce_max_seconds"),
        ({"unique_scope": "forever"}, "body.unique_scope"),
        ({"unique_for_seconds": 5.0, "on_conflict": "replace"}, "body.unique_for_seconds"),
        ({"unique_by": ["queue"]}, "body.unique_by"),
        ({"unique_by": ["payload.nothing"], "unique_key": None}, "body.unique_by"),
    ],
)
async def test_an_option_that_makes_no_sense_is_refused_by_its_field(
    client: httpx.AsyncClient,
    service: dict[str, str],
    app: FastAPI,
    bad: dict[str, Any],
    field: str,
) -> None:
    answer = await client.post("/jobs", json=KEYED | bad, headers=service)
    problem = assert_problem(answer, 422)
    assert [error["field"] for error in problem["errors"]] == [field]
    assert await jobs_in(app) == []
