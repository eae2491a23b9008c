"""Changing, hastening and copying jobs over REST, and retries that edit."""

from typing import Any

import httpx
import pytest

from tests.api.conftest import Auth
from tests.api.shapes import assert_problem

LATER = "2030-01-31T09:00:00Z"


@pytest.fixture
def operator(auth: Auth) -> dict[str, str]:
    return auth("operator", "ada")


async def waiting(client: httpx.AsyncClient, auth: Auth) -> str:
    body = {"job_type": "mail", "payload": {"n": 1}, "run_at": LATER, "unique_key": "k"}
    made = await client.post("/jobs", json=body, headers=auth("service"))
    return f"/admin/jobs/{made.json()['id']}"


async def test_a_waiting_job_is_changed_and_the_answer_shows_it(
    client: httpx.AsyncClient, auth: Auth, operator: dict[str, str]
) -> None:
    path = await waiting(client, auth)
    change = {
        "payload": {"n": 2},
        "queue": "slow",
        "priority": 7,
        "max_retries": 0,
        "run_at": "2031-01-31T09:00:00Z",
    }
    answer = await client.patch(path, json=change, headers=operator)
    assert answer.status_code == 200
    job = answer.json()
    assert {name: job[name] for name in change if name != "run_at"} == {
        name: value for name, value in change.items() if name != "run_at"
    }
    assert job["next_run_at"] == change["run_at"]
    assert (await client.get(path, headers=operator)).json() == job


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "body", "at least one of"),
        ({"priority": 10}, "body.priority", "9"),
        ({"queue": "no spaces"}, "body.queue", ""),
        ({"run_at": "2030-01-31T09:00:00"}, "body.run_at", "time"),
        ({"max_retries": 1.5}, "body.max_retries", ""),
        ({"payload": {"n": "\0"}}, "body.payload", ""),
        ({"status": "SUCCESS"}, "body.status", ""),
    ],
)
async def test_a_change_that_breaks_a_rule_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, auth: Auth, operator: dict[str, str], body: Any, field: str, words: str
) -> None:  # fmt: skip
    path = await waiting(client, auth)
    before = (await client.get(path, headers=operator)).json()
    (error,) = assert_problem(await client.patch(path, json=body, headers=operator), 422)["errors"]
    assert error["field"].startswith(field)
    assert words in error["message"]
    assert (await client.get(path, headers=operator)).json() == before


async def test_a_waiting_job_is_due_at_once_when_it_is_to_run_now(
    client: httpx.AsyncClient, auth: Auth, operator: dict[str, str]
) -> None:
    path = await waiting(client, auth)
    answer = await client.post(f"{path}/run-now", headers=operator)
    assert answer.json()["next_run_at"] < LATER


async def test_a_clone_belongs_to_the_operator_and_has_no_key(
    client: httpx.AsyncClient, auth: Auth, operator: dict[str, str]
) -> None:
    path = await waiting(client, auth)
    answer = await client.post(f"{path}/clone", headers=operator)
    job = answer.json()
    assert answer.status_code == 201
    assert f"/admin/jobs/{job['id']}" != path
    assert (job["payload"], job["unique_key"], job["enqueued_by"]) == ({"n": 1}, None, "ada")


async def test_what_has_ended_is_409_and_what_is_not_there_404(
    client: httpx.AsyncClient, auth: Auth, operator: dict[str, str]
) -> None:
    path = await waiting(client, auth)
    await client.post(f"{path}/cancel", headers=operator)
    for method, where, body in (
        ("PATCH", path, {"priority": 1}),
        ("POST", f"{path}/run-now", None),
        ("POST", f"{path}/retry", {"payload": {}}),
    ):
        assert_problem(await client.request(method, where, json=body, headers=operator), 409)
    for where in ("/admin/jobs/999/run-now", "/admin/jobs/999/clone"):
        assert_problem(await client.post(where, headers=operator), 404)
