"""The service over HTTP without a worker of its own, and workers that claim from it."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from service.settings import Settings
from tests.api.conftest import Auth, app, auth, client
from tests.jobs.conftest import sql

__all__ = ["app", "auth", "client", "sql"]

Sql: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

Call = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture
def api_settings(make_settings: Callable[..., Settings], pg_dsn: str) -> Settings:
    """Polls so rarely that what comes at once was told; a test may override it."""
    return make_settings(
        database_url=SecretStr(pg_dsn),
        query_timeout_seconds=30,
        poll_max_seconds=20,
        sweep_seconds=1,
        backoff_base_seconds=0.01,
        backoff_jitter=0,
    )


@pytest.fixture
def call(client: httpx.AsyncClient, auth: Auth) -> Call:
    """Calls `/worker/…` as one worker: `await call("claim", limit=5)`."""

    async def call(
        path: str, *, status: int = 200, headers: dict[str, str] | None = None, **body: Any
    ) -> Any:
        if path in {"claim", "register"}:
            body.setdefault("job_types", ["mail"])
        if path in {"claim", "register", "heartbeat"}:
            body.setdefault("worker", "w:1")
        answer = await client.post(f"/worker/{path}", json=body, headers=headers or auth("admin"))
        assert answer.status_code == status, answer.text
        return answer.json()

    return call


@pytest.fixture
def enqueue(client: httpx.AsyncClient, auth: Auth) -> Call:
    """Enqueues a job of the type `mail`: its id."""

    async def enqueue(**job: Any) -> int:
        body = {"job_type": "mail", "max_retries": 1} | job
        answer = await client.post("/jobs", json=body, headers=auth("admin"))
        assert answer.status_code == 201, answer.text
        made: int = answer.json()["id"]
        return made

    return enqueue


def lease(job: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What names a claim in a report."""
    return {"id": job["id"], "lease_token": job["lease_token"], **more}
