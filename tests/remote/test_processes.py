"""Any process of the service takes any call: three of them on one database."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings
from tests.api.conftest import Auth
from tests.jobs.waiting import until_true
from tests.remote.conftest import lease
from tests.remote.test_claims import gateway_of

Post = Callable[..., Any]


@pytest.fixture
async def three(api_settings: Settings) -> AsyncIterator[list[FastAPI]]:
    """Three processes' worth of the service, without workers of their own."""
    async with AsyncExitStack() as stack:
        apps = [create_app(api_settings, run_worker=False) for _ in range(3)]
        for app in apps:
            await stack.enter_async_context(app.router.lifespan_context(app))
        yield apps


@pytest.fixture
async def post(three: list[FastAPI], auth: Auth) -> AsyncIterator[Post]:
    """Posts to one of them: `await post(0, "/jobs", {…})`."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    transport=httpx.ASGITransport(app=app), base_url="http://x", timeout=20
                )
            )
            for app in three
        ]

        async def post(number: int, path: str, body: dict[str, Any]) -> Any:
            answer = await clients[number].post(path, json=body, headers=auth("admin"))
            assert answer.status_code < 300, answer.text
            return answer.json()

        yield post


async def test_a_claim_a_heartbeat_and_a_report_may_meet_three_processes(
    three: list[FastAPI], post: Post
) -> None:
    asked = {
        "worker": "w:1", "job_types": ["mail"], "limit": 5, "wait_seconds": 15.0, "request_id": "r"
    }  # fmt: skip
    waiting = asyncio.create_task(post(0, "/worker/claim", asked))
    await until_true(lambda: gateway_of(three[0]).waiting == 1)
    # The process that waits is told of a job that another one enqueues: it polls rarely.
    made = (await post(1, "/jobs", {"job_type": "mail"}))["id"]
    async with asyncio.timeout(12):
        (job,) = (await waiting)["jobs"]
    assert job["id"] == made
    # A third one knows what the claim brought, extends the lease, and takes the report.
    again = await post(2, "/worker/claim", asked)
    assert [lease(one) for one in again["jobs"]] == [lease(job)]
    beat = await post(1, "/worker/heartbeat", {"worker": "w:1", "jobs": [lease(job)]})
    assert beat["jobs"][0]["state"] == "held"
    told = await post(2, "/worker/complete", {"jobs": [lease(job)]})
    assert told["jobs"][0]["outcome"] == "recorded"
    told = await post(0, "/worker/complete", {"jobs": [lease(job)]})
    assert told["jobs"][0]["outcome"] == "repeated"
