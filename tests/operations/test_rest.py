"""`/admin/operations`: what an operator sends, and what the answers say."""

from typing import Any

import httpx
import pytest

from tests.api.conftest import Auth
from tests.api.shapes import assert_problem
from tests.operations.conftest import Fill

PATH = "/admin/operations"


@pytest.fixture
def operator(auth: Auth) -> dict[str, str]:
    return auth("operator", "olga")


async def test_an_operation_is_previewed_started_listed_and_read(
    client: httpx.AsyncClient, operator: dict[str, str], fill: Fill
) -> None:
    await fill(7)
    body = {"action": "retry", "filter": {"job_type": ["mail"], "error": "ValueError"}, "rate": 5}
    preview = (await client.post(f"{PATH}/preview", json=body, headers=operator)).json()
    assert (preview["count"], preview["exact"], len(preview["sample"])) == (7, True, 5)
    assert preview["cost"]["seconds"] == 1.4
    started = await client.post(PATH, json=body, headers=operator)
    made = started.json()
    assert (started.status_code, made["state"], made["expected"]) == (202, "running", 7)
    assert started.headers["location"] == f"{PATH}/{made['id']}"
    assert made["filter"] == {
        "status": ["DEAD_LETTER", "FAILED"], "job_type": "mail", "error": "ValueError",
    }  # fmt: skip
    read = (await client.get(f"{PATH}/{made['id']}", headers=operator)).json()
    assert (read["waiting_for"], read["skipped_jobs"]) == ("worker", [])
    listed = (await client.get(PATH, headers=operator)).json()
    assert [one["id"] for one in listed["operations"]] == [made["id"]]


async def test_pages_of_operations_follow_each_other(
    client: httpx.AsyncClient, operator: dict[str, str]
) -> None:
    for _ in range(3):
        await client.post(PATH, json={"action": "cancel", "all": True}, headers=operator)
    first = (await client.get(PATH, params={"limit": 2}, headers=operator)).json()
    query = {"limit": 2, "cursor": first["next_cursor"]}
    second = (await client.get(PATH, params=query, headers=operator)).json()
    ids = [one["id"] for page in (first, second) for one in page["operations"]]
    assert ids == sorted(ids, reverse=True)
    assert (len(ids), second["next_cursor"]) == (3, None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"action": "retry"}, "body.filter"),
        ({"action": "retry", "filter": {}}, "body.filter"),
        ({"action": "retry", "filter": {"q": ""}}, "body.filter"),
        ({"action": "retry", "filter": {"nothing": 1}}, "body.filter.nothing"),
        ({"action": "retry", "filter": {"limit": 1}}, "body.filter.limit"),
        ({"action": "retry", "filter": {"job_type": ["a", "b"]}}, "body.filter.job_type"),
        ({"action": "retry", "filter": {"q": "colour:red"}}, "body.filter.q"),
        ({"action": "retry", "filter": {"status": "PENDING"}}, "body.filter.status"),
        ({"action": "move", "filter": {"queue": "a"}}, "body.queue"),
        ({"action": "explode", "filter": {"queue": "a"}}, "body.action"),
        ({"action": "retry", "ids": []}, "body.ids"),
        ({"action": "retry", "ids": [1], "group": "a"}, "body"),
        ({"action": "cancel", "ids": [1], "canary": {"jobs": 1}}, "body.canary"),
        ({"action": "retry", "ids": [1], "rate": 0}, "body.rate"),
        (
            {"action": "retry", "ids": [1], "edit": {"payload_merge": [1]}},
            "body.edit.payload_merge",
        ),
    ],
    ids=str,
)
async def test_what_cannot_be_meant_is_422_and_names_the_field(
    client: httpx.AsyncClient, operator: dict[str, str], body: dict[str, Any], field: str
) -> None:
    answer = await client.post(PATH, json=body, headers=operator)
    problem = assert_problem(answer, 422)
    assert field in [one["field"] for one in problem["errors"]], problem


async def test_an_operator_does_not_delete_many_jobs_and_an_administrator_does(
    client: httpx.AsyncClient, operator: dict[str, str], auth: Auth
) -> None:
    body = {"action": "delete", "filter": {"queue": "old"}}
    problem = assert_problem(await client.post(PATH, json=body, headers=operator), 403)
    assert "admin:delete" in problem["detail"]
    assert (await client.post(PATH, json=body, headers=auth("admin"))).status_code == 202


async def test_a_repeated_request_starts_nothing_and_another_with_its_key_is_refused(
    client: httpx.AsyncClient, operator: dict[str, str]
) -> None:
    headers = operator | {"idempotency-key": "redrive-1"}
    body = {"action": "retry", "filter": {"queue": "a"}}
    first = (await client.post(PATH, json=body, headers=headers)).json()
    again = (await client.post(PATH, json=body, headers=headers)).json()
    assert again["id"] == first["id"]
    other = {"action": "retry", "filter": {"queue": "b"}}
    assert_problem(await client.post(PATH, json=other, headers=headers), 409)


async def test_an_operation_is_paused_resumed_and_cancelled_over_rest(
    client: httpx.AsyncClient, operator: dict[str, str]
) -> None:
    made = (
        await client.post(PATH, json={"action": "cancel", "all": True}, headers=operator)
    ).json()
    one = f"{PATH}/{made['id']}"
    paused = await client.post(f"{one}/pause", json={"reason": "lunch"}, headers=operator)
    assert (paused.json()["state"], paused.json()["note"]) == ("paused", "lunch")
    assert (await client.post(f"{one}/resume", headers=operator)).json()["state"] == "running"
    assert (await client.post(f"{one}/cancel", headers=operator)).json()["state"] == "cancelled"
    assert_problem(await client.post(f"{one}/resume", headers=operator), 409)
    assert_problem(await client.get(f"{PATH}/999", headers=operator), 404)


async def test_too_many_operations_at_once_are_refused(
    client: httpx.AsyncClient, operator: dict[str, str]
) -> None:
    for _ in range(20):
        await client.post(PATH, json={"action": "cancel", "all": True}, headers=operator)
    answer = await client.post(PATH, json={"action": "cancel", "all": True}, headers=operator)
    assert "20 operations are running" in assert_problem(answer, 409)["detail"]
