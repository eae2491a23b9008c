"""Errors over HTTP: their status, their shape, and what they do not tell."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import Request
from sqlalchemy import text

from service.api.outages import database_problem
from service.db.engine import Database
from service.errors import (
    ConfigurationError,
    Conflict,
    FinMindError,
    Forbidden,
    InvalidInput,
    NotFound,
    PayloadError,
    Unauthenticated,
    Unavailable,
)
from service.jobs import enqueue
from service.settings import Settings
from tests.api.shell import sample, shell_client

Fail = Callable[[], Awaitable[Any]]


def raising(error: BaseException) -> Fail:
    async def fail() -> None:
        raise error

    return fail


async def answer(settings: Settings, fail: Fail) -> httpx.Response:
    async with shell_client(settings, fail) as client:
        return await client.get("/fail")


def assert_problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert body["type"] == f"urn:finmind-jobs:problem:{slug}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    return body


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (InvalidInput("no", field="priority"), 422, "invalid-input"),
        (PayloadError("no"), 422, "payload-not-storable"),
        (Unauthenticated("who?"), 401, "not-authenticated"),
        (Forbidden("no"), 403, "not-allowed"),
        (NotFound("gone"), 404, "not-found"),
        (Conflict("busy"), 409, "conflict"),
        (Unavailable("later"), 503, "unavailable"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_each_error_of_ours_has_its_status_and_type(
    settings: Settings, error: FinMindError, status: int, slug: str
) -> None:
    body = assert_problem(await answer(settings, raising(error)), status, slug)
    assert body["detail"] == error.detail
    assert ("errors" in body) == (status == 422)


async def test_an_invalid_value_is_named(settings: Settings) -> None:
    response = await answer(settings, raising(InvalidInput("expected 0 to 9", field="priority")))
    assert response.json()["errors"] == [
        {"field": "body.priority", "message": "expected 0 to 9", "type": "invalid-input"}
    ]


@pytest.mark.parametrize(
    ("error", "challenge"),
    [
        (Unauthenticated("x"), 'Bearer realm="finmind-jobs"'),
        (
            Unauthenticated("x", credential_given=True),
            'Bearer realm="finmind-jobs", error="invalid_token"',
        ),
        (
            Forbidden("x", scope="admin:read"),
            'Bearer realm="finmind-jobs", error="insufficient_scope", scope="admin:read"',
        ),
        (NotFound("x"), None),
    ],
    ids=["missing", "refused", "scope", "other"],
)
async def test_refused_credentials_carry_the_challenge_of_rfc_6750(
    settings: Settings, error: FinMindError, challenge: str | None
) -> None:
    response = await answer(settings, raising(error))
    assert response.headers.get("www-authenticate") == challenge


async def test_unavailable_says_when_to_try_again(settings: Settings) -> None:
    response = await answer(settings, raising(Unavailable("later", retry_after_seconds=7)))
    assert response.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("postgresql://user:hunter2@db.internal/x"),
        ConfigurationError("DATABASE_URL is hunter2"),
        asyncpg.PostgresSyntaxError("syntax error at hunter2"),
    ],
    ids=["runtime", "configuration", "sql"],
)
async def test_what_nobody_expected_tells_nothing(settings: Settings, error: BaseException) -> None:
    response = await answer(settings, raising(error))
    assert_problem(response, 500, "internal-error")
    assert "hunter2" not in response.text
    assert "db.internal" not in response.text


async def slow_statement(database: Database) -> None:
    async with database.sessions() as session:
        await session.execute(text("SET statement_timeout = '20ms'"))
        await session.execute(text("SELECT pg_sleep(5)"))


async def cut_connection(database: Database) -> None:
    async with database.sessions() as session:
        await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


async def cut_connection_after_an_enqueue(database: Database) -> None:
    async with database.sessions.begin() as session:
        await enqueue(session, "mail")
    await cut_connection(database)


async def cut_link(database: Database) -> None:
    await database.link().fetch("SELECT pg_terminate_backend(pg_backend_pid())")


async def busy_pool(database: Database) -> None:
    async with database.engine.connect() as first, database.engine.connect() as second:
        await first.execute(text("SELECT 1"))
        await second.execute(text("SELECT 1"))
        async with database.engine.connect():
            pass


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (slow_statement, "did not answer in time. Try again"),
        (cut_connection, "cannot answer just now"),
        (cut_connection_after_an_enqueue, "cannot answer just now"),
        (cut_link, "cannot answer just now"),
        (busy_pool, "connection of this process is busy"),
    ],
)
async def test_a_database_in_trouble_is_503_with_advice(
    make_settings: Callable[..., Settings],
    pg_dsn: str,
    fail: Callable[[Database], Awaitable[None]],
    words: str,
) -> None:
    settings = make_settings(database_pool_size=2)
    database = Database(pg_dsn, settings)
    before = sample("finmind_database_errors_total", operation="request")
    try:
        response = await answer(settings, lambda: fail(database))
    finally:
        await database.close()
    body = assert_problem(response, 503, "unavailable")
    assert words in body["detail"]
    assert int(response.headers["retry-after"]) > 0
    assert sample("finmind_database_errors_total", operation="request") == before + 1


async def test_a_database_that_is_not_there_is_503(settings: Settings) -> None:
    database = Database("postgresql://nobody:hunter2@127.0.0.1:1/none", settings)

    async def fail() -> None:
        async with database.sessions() as session:
            await session.execute(text("SELECT 1"))

    response = await answer(settings, fail)
    await database.close()
    assert_problem(response, 503, "unavailable")
    assert "127.0.0.1" not in response.text


async def test_a_mistake_of_ours_in_sql_is_500_and_tells_no_statement(
    settings: Settings, database: Database
) -> None:
    async def fail() -> None:
        async with database.sessions() as session:
            await session.execute(text("SELECT hunter2 FROM nowhere"))

    response = await answer(settings, fail)
    assert_problem(response, 500, "internal-error")
    assert "hunter2" not in response.text


def test_wrong_arguments_to_the_driver_are_our_mistake() -> None:
    request = Request({"type": "http", "method": "GET"})
    wrong = asyncpg.DataError("invalid input for query argument")
    assert database_problem(wrong, request) is None
    busy = asyncpg.InterfaceError("another operation is in progress")
    assert database_problem(busy, request) is None
    assert database_problem(asyncpg.InterfaceError("connection is closed"), request) is not None


async def test_every_refused_value_is_listed_and_none_is_echoed(settings: Settings) -> None:
    async with shell_client(settings, raising(RuntimeError())) as client:
        body = {"name": "hunter2" * 1000, "size": 12}
        response = await client.post("/things", json=body)
    problem = assert_problem(response, 422, "invalid-input")
    assert [error["field"] for error in problem["errors"]] == ["body.name", "body.size"]
    assert problem["errors"][1]["type"] == "less_than_equal"
    assert "2 values are invalid; the first: " in problem["detail"]
    assert "hunter2" not in response.text


async def test_one_refused_value_is_one_error(settings: Settings) -> None:
    async with shell_client(settings, raising(RuntimeError())) as client:
        response = await client.post("/things", json={"name": "a", "size": 12})
    problem = assert_problem(response, 422, "invalid-input")
    (error,) = problem["errors"]
    assert problem["detail"] == f"Invalid value: body.size: {error['message']}"


async def test_the_list_of_refused_values_is_bounded(settings: Settings) -> None:
    async with shell_client(settings, raising(RuntimeError())) as client:
        response = await client.post("/many", json=[{"name": "a", "size": -1}] * 500)
    problem = assert_problem(response, 422, "invalid-input")
    assert "More than 50 values are invalid; the first: " in problem["detail"]
    assert len(problem["errors"]) == 50


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"", b"nul", b'{"name": "\xc3"}'])
async def test_a_body_that_is_not_json_is_a_problem_too(settings: Settings, body: bytes) -> None:
    async with shell_client(settings, raising(RuntimeError())) as client:
        response = await client.post(
            "/things", content=body, headers={"content-type": "application/json"}
        )
    assert response.status_code in {400, 422}
    assert response.headers["content-type"] == "application/problem+json"


async def test_unknown_paths_and_methods_are_problems(settings: Settings) -> None:
    async with shell_client(settings, raising(RuntimeError())) as client:
        missing = await client.get("/nowhere")
        wrong = await client.put("/things")
        odd = await client.request("BREW", "/things")
    assert_problem(missing, 404, "not-found")
    assert_problem(wrong, 405, "method-not-allowed")
    assert wrong.headers["allow"] == "POST"
    assert_problem(odd, 501, "not-implemented")


async def test_a_failure_is_logged_with_its_traceback_under_the_request_id(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    response = await answer(settings, raising(RuntimeError("the reason")))
    request_id = response.headers["x-request-id"]
    failures = [
        record.msg
        for record in caplog.records
        if isinstance(record.msg, dict) and record.msg.get("event") == "request_failed"
    ]
    assert [failure["request_id"] for failure in failures] == [request_id]
    assert json.loads(response.text)["request_id"] == request_id
