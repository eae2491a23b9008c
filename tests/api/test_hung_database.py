"""A database that hangs: every answer comes in time, and says what the client can do."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text

from service.settings import Settings
from tests.api.conftest import Auth
from tests.api.shapes import assert_problem, jobs_in
from tests.jobs.proxy import Proxy

pytestmark = pytest.mark.whole

QUERY_TIMEOUT_SECONDS: Final = 0.5
BOUND_SECONDS: Final = 6.0
"""Far above the time that is asked for, since the machine may be busy; far below what waits one after
another (twenty requests) or for the server's own limits would take."""

JOB: Final = {"job_type": "m"}
REMINDER: Final = {
    "message": "m",
    "send_at": "2030-01-01T00:00:00Z",
    "channel": "log",
    "recipient": "ada",
}
KEYED: Final = "send the request again with the same Idempotency-Key or unique_key"
LOOK: Final = "may or may not have been made: first check"
REQUESTS: Final[list[tuple[str, str, Any, str]]] = [
    ("POST", "/jobs", JOB, KEYED),
    ("POST", "/jobs/batch", {"jobs": [JOB]}, KEYED),
    ("GET", "/jobs/1", None, "Try again"),
    ("GET", "/admin/jobs", None, "Narrow the filter"),
    ("GET", "/admin/jobs/stats", None, "Try again"),
    ("GET", "/admin/jobs/1", None, "Try again"),
    ("POST", "/admin/jobs/1/retry", None, LOOK),
    ("DELETE", "/admin/jobs/1", None, LOOK),
    ("POST", "/admin/api-keys", {"name": "n", "scopes": ["jobs:read"]}, LOOK),
    ("POST", "/reminders", REMINDER, LOOK),
    ("GET", "/reminders", None, "Narrow the filter"),
    ("GET", "/reminders/1", None, "Try again"),
    ("PATCH", "/reminders/1", {"message": "n"}, LOOK),
    ("DELETE", "/reminders/1", None, LOOK),
    ("POST", "/reminders/run", None, LOOK),
    ("POST", "/admin/jobs/process", None, LOOK),
]
REQUEST = pytest.mark.parametrize(("method", "path", "body", "words"), REQUESTS)


@pytest.fixture
async def proxy(pg_dsn: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(pg_dsn)
    await proxy.start()
    yield proxy
    await proxy.close()


@pytest.fixture
def api_settings(make_settings: Callable[..., Settings], proxy: Proxy) -> Settings:
    return make_settings(
        database_url=SecretStr(proxy.dsn), query_timeout_seconds=QUERY_TIMEOUT_SECONDS
    )


@pytest.fixture
async def hang(app: FastAPI, proxy: Proxy) -> AsyncIterator[Callable[[], None]]:
    """Makes the database hang until the end of the test; no statistics are kept from before."""

    def stall() -> None:
        app.state.stats_cache.forget()
        proxy.stall()

    yield stall
    proxy.flow()


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@REQUEST
async def test_every_answer_comes_in_time_and_says_what_to_do(  # noqa: PLR0917 - fixtures and a row
    client: httpx.AsyncClient,
    app: FastAPI,
    auth: Auth,
    hang: Callable[[], None],
    warm: bool,
    method: str,
    path: str,
    body: Any,
    words: str,
) -> None:
    if warm:  # with a connection open that then answers nothing
        await client.request(method, path, json=body, headers=auth("admin"))
    else:
        await app.state.service.database.engine.dispose()
    hang()
    began = time.monotonic()
    answer = await client.request(method, path, json=body, headers=auth("admin"))
    assert time.monotonic() - began < BOUND_SECONDS
    detail = assert_problem(answer, 503)["detail"]
    assert words in detail
    assert ("filter" in detail) == (words == "Narrow the filter")


@pytest.mark.parametrize("headers", [{"Idempotency-Key": "k"}, {"X-API-Key": "made"}], ids=str)
async def test_a_key_costs_no_more_time(
    client: httpx.AsyncClient, auth: Auth, hang: Callable[[], None], headers: dict[str, str]
) -> None:
    headers = dict(headers)
    if "X-API-Key" in headers:
        scopes = {"name": "n", "scopes": ["jobs:write"]}
        made = await client.post("/admin/api-keys", json=scopes, headers=auth("admin"))
        headers["X-API-Key"] = made.json()["key"]
    else:
        headers |= auth("service")
        assert (await client.post("/jobs", json=JOB, headers=headers)).status_code == 201
    hang()
    began = time.monotonic()
    answer = await client.post("/jobs", json=JOB, headers=headers)
    assert time.monotonic() - began < BOUND_SECONDS
    assert KEYED in assert_problem(answer, 503)["detail"]


@pytest.mark.parametrize("path", ["/admin/jobs/stats", "/admin/jobs", "/jobs"])
async def test_many_at_once_wait_no_longer_than_one(
    client: httpx.AsyncClient, auth: Auth, hang: Callable[[], None], path: str
) -> None:
    hang()
    method, body = ("POST", JOB) if path == "/jobs" else ("GET", None)
    began = time.monotonic()
    answers = await asyncio.gather(
        *(client.request(method, path, json=body, headers=auth("admin")) for _ in range(20))
    )
    assert time.monotonic() - began < BOUND_SECONDS
    assert {answer.status_code for answer in answers} == {503}


async def test_the_service_goes_on_when_the_database_does(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth, proxy: Proxy, hang: Callable[[], None]
) -> None:
    hang()
    for path in ("/jobs", "/jobs/batch"):
        body = JOB if path == "/jobs" else {"jobs": [JOB]}
        refused = await client.post(path, json=body, headers=auth("service"))
        assert refused.status_code == 503
    proxy.flow()
    made = await client.post("/jobs", json=JOB, headers=auth("service"))
    assert made.status_code == 201
    assert made.json()["id"] in await jobs_in(app)


async def test_a_statement_that_waits_for_a_lock_ends_in_time_too(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth
) -> None:
    headers = auth("service") | {"Idempotency-Key": "k"}
    async with app.state.service.database.engine.begin() as other:
        await other.execute(text("LOCK TABLE idempotency_keys IN ACCESS EXCLUSIVE MODE"))
        began = time.monotonic()
        answer = await client.post("/jobs", json=JOB, headers=headers)
        assert time.monotonic() - began < BOUND_SECONDS
    assert KEYED in assert_problem(answer, 503)["detail"]
    assert await jobs_in(app) == []
