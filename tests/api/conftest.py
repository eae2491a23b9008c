"""The service over HTTP, in this process: its lifespan run, no background worker."""

import time
from collections.abc import AsyncIterator, Callable

import httpx
import jwt
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from service.app import create_app
from service.settings import Settings
from tests.conftest import TEST_SECRET

Auth = Callable[..., dict[str, str]]


@pytest.fixture
def api_settings(make_settings: Callable[..., Settings], pg_dsn: str) -> Settings:
    """The settings of `app`; a test module may override the fixture."""
    # On a machine that stands still for seconds a request is late, and not refused.
    return make_settings(database_url=SecretStr(pg_dsn), query_timeout_seconds=30)


@pytest.fixture
async def app(api_settings: Settings) -> AsyncIterator[FastAPI]:
    """The application on this test's database, started and stopped around the test."""
    application = create_app(api_settings, run_worker=False)
    async with application.router.lifespan_context(application):
        yield application


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of `app` without a credential."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://service.test", timeout=20
    ) as client:
        yield client


@pytest.fixture
def auth() -> Auth:
    """Headers of a bearer token: `auth("admin", "somebody")`."""

    def headers(role: str, sub: str = "tester", *, lasting: int = 60) -> dict[str, str]:
        claims = {"sub": sub, "role": role, "exp": int(time.time()) + lasting}
        return {"authorization": f"Bearer {jwt.encode(claims, TEST_SECRET, algorithm='HS256')}"}

    return headers
