"""Requests that two readers could take in two ways are refused, each with its own status."""

import httpx
import pytest
from fastapi import FastAPI

from tests.api.conftest import Auth
from tests.api.shapes import assert_problem, jobs_in

pytestmark = pytest.mark.whole

JOB = b'{"job_type": "mail"}'


@pytest.mark.parametrize("number", ["1_0", "+1", "1.0", "01", "%201", "1e1", "\u0661", "-1"])
@pytest.mark.parametrize("path", ["/jobs/{}", "/admin/jobs/{}", "/reminders/{}"])
async def test_a_number_in_a_path_is_written_in_one_way(
    client: httpx.AsyncClient, auth: Auth, path: str, number: str
) -> None:
    answer = await client.get(path.format(number), headers=auth("admin"))
    assert_problem(answer, 422)


@pytest.mark.parametrize(
    "query", ["limit=1_0", "limit=+1", "limit=%2B1", "limit=1.0", "priority=1_0", "priority=%2B1"]
)
async def test_so_is_a_number_in_a_query(client: httpx.AsyncClient, auth: Auth, query: str) -> None:
    answer = await client.get(f"/admin/jobs?{query}", headers=auth("admin"))
    (error,) = assert_problem(answer, 422)["errors"]
    assert "in digits" in error["message"]
    assert error["field"] == f"query.{query.partition('=')[0]}"


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ([("idempotency-key", "a"), ("idempotency-key", "b")], 400, "Idempotency-Key"),
        ([("host", "a"), ("host", "b")], 400, "Host"),
        ([("content-type", "text/plain")], 400, "Content-Type"),
        ([("content-encoding", "gzip")], 415, "without Content-Encoding"),
        ([("content-encoding", "identity, br")], 415, "without Content-Encoding"),
        ([("transfer-encoding", "gzip, chunked")], 501, "chunked"),
        ([("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")], 501, "chunked"),
    ],
)
async def test_a_head_that_can_be_read_in_two_ways_is_refused(
    app: FastAPI,
    client: httpx.AsyncClient,
    auth: Auth,
    headers: list[tuple[str, str]],
    status: int,
    words: str,
) -> None:
    given = [*auth("service").items(), ("content-type", "application/json"), *headers]
    answer = await client.post("/jobs", content=JOB, headers=given)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert await jobs_in(app) == []


async def test_a_body_that_says_that_it_is_not_encoded_is_taken(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    headers = auth("service") | {"content-type": "application/json", "content-encoding": "identity"}
    assert (await client.post("/jobs", content=JOB, headers=headers)).status_code == 201


async def test_a_request_of_http_1_1_names_its_host(client: httpx.AsyncClient) -> None:
    request = client.build_request("GET", "/health/live")
    del request.headers["host"]
    answer = await client.send(request)
    assert answer.status_code == 400
    assert "Host" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body", [b'{"job_type": "\xff"}', b'{"job_type": "mail", "priority": ' + b"1" * 5000 + b"}"]
)
async def test_a_body_that_cannot_be_read_says_what_to_send(
    client: httpx.AsyncClient, auth: Auth, body: bytes
) -> None:
    headers = auth("service") | {"content-type": "application/json"}
    answer = await client.post("/jobs", content=body, headers=headers)
    assert "UTF-8" in assert_problem(answer, 400)["detail"]
