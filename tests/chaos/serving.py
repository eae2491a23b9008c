"""The API and one worker in this process, on a database that the test takes away from them."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
import jwt

from service.app import Service, create_app
from service.db.engine import Database
from service.jobs import Registry, Worker
from service.settings import Settings
from tests.conftest import TEST_SECRET

TOKEN_SECONDS: Final = 7200


def bearer(role: str = "admin") -> dict[str, str]:
    """The headers of somebody with this role."""
    claims = {"sub": "chaos", "role": role, "exp": int(time.time()) + TOKEN_SECONDS}
    return {"authorization": f"Bearer {jwt.encode(claims, TEST_SECRET, algorithm='HS256')}"}


@dataclass
class Serving:
    """What is under test, and a client of it that calls itself an admin."""

    client: httpx.AsyncClient
    service: Service
    worker: Worker | None

    @property
    def database(self) -> Database:
        """The API's."""
        return self.service.database

    async def post_job(self, job_type: str, payload: Any = None, **fields: Any) -> httpx.Response:
        """Ask for one job."""
        body = {"job_type": job_type, "payload": payload or {}} | fields
        return await self.client.post("/jobs", json=body)


@asynccontextmanager
async def serving(
    settings: Settings, dsn: str, *, handlers: Registry | None = None
) -> AsyncIterator[Serving]:
    """Start the API on `dsn`, and with `handlers` a worker that has connections of its own."""
    async with AsyncExitStack() as stack:
        app = create_app(settings, dsn=dsn, run_worker=False)
        await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        client = httpx.AsyncClient(
            transport=transport, base_url="http://service.test", timeout=30, headers=bearer()
        )
        await stack.enter_async_context(client)
        worker: Worker | None = None
        if handlers is not None:
            database = Database(dsn, settings)
            stack.push_async_callback(database.close)
            worker = Worker(database, settings, handlers=handlers)
            stack.push_async_callback(worker.stop)
            await worker.start()
        yield Serving(client, app.state.service, worker)
