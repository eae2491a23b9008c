"""Workers on the test's own database, what they counted, and how to enqueue with few words."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import asyncpg
import pytest
from prometheus_client import REGISTRY

from service.db.engine import Database
from service.jobs import NewJob, Registry, Worker, enqueue_batch
from service.jobs.core.job import JobId
from service.settings import Settings
from tests.jobs.proxy import Proxy


class StartWorker(Protocol):
    async def __call__(
        self, *, database: Database | None = None, handlers: Registry | None = None, **settings: Any
    ) -> Worker: ...


class Put(Protocol):
    async def __call__(self, job_type: str, payload: Any = None, **options: Any) -> JobId: ...


@pytest.fixture
def handlers() -> Registry:
    """Handlers of this test alone."""
    return Registry()


@pytest.fixture
async def sql(database: Database) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to look and to meddle with; jsonb comes as Python values."""
    connection = await database.connect()
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )
    yield connection
    await connection.close(timeout=5)


@pytest.fixture
def quick(make_settings: Callable[..., Settings]) -> Callable[..., Settings]:
    """Settings of a worker that looks often, and whose backoff has no jitter."""

    def make(**overrides: Any) -> Settings:
        values = {
            "poll_min_seconds": 0.01,
            "poll_max_seconds": 0.1,
            "sweep_seconds": 0.1,
            "maintenance_seconds": 0.1,
            "shutdown_grace_seconds": 2.0,
            "backoff_jitter": 0.0,
        }
        return make_settings(**(values | overrides))

    return make


@pytest.fixture
async def start_worker(
    database: Database, handlers: Registry, quick: Callable[..., Settings]
) -> AsyncIterator[StartWorker]:
    """Start workers that are stopped when the test ends."""
    started: list[Worker] = []
    ours, own_handlers = database, handlers

    async def start(
        *, database: Database | None = None, handlers: Registry | None = None, **settings: Any
    ) -> Worker:
        worker = Worker(database or ours, quick(**settings), handlers=handlers or own_handlers)
        await worker.start()
        started.append(worker)
        return worker

    yield start
    async with asyncio.timeout(30):
        for worker in started:
            await worker.stop()


@pytest.fixture
def put(sql: "asyncpg.Connection[asyncpg.Record]") -> Put:
    """Enqueue one job and commit."""

    async def enqueue(job_type: str, payload: Any = None, **options: Any) -> JobId:
        return (await enqueue_batch(sql, [NewJob(job_type, payload, **options)]))[0].id

    return enqueue


@pytest.fixture
def events() -> Callable[..., float]:
    """How often an event was counted since the test began: `events("retried", "mail", "timeout")`."""
    before = {
        tuple(sample.labels[name] for name in ("event", "job_type", "status")): sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "finmind_job_events_total"
    }

    def count(event: str, job_type: str, status: str = "ok") -> float:
        labels = {"event": event, "job_type": job_type, "status": status}
        now = REGISTRY.get_sample_value("finmind_job_events_total", labels) or 0.0
        return now - before.get((event, job_type, status), 0.0)

    return count


Events = Callable[..., float]
Quick = Callable[..., Settings]


@pytest.fixture
async def proxy(pg_dsn: str) -> AsyncIterator[Proxy]:
    """A proxy before this test's database, listening."""
    proxy = Proxy(pg_dsn)
    await proxy.start()
    yield proxy
    await proxy.close()


@pytest.fixture
async def proxied(proxy: Proxy, settings: Settings) -> AsyncIterator[Database]:
    """This test's database, seen through the proxy."""
    database = Database(proxy.dsn, settings)
    yield database
    await database.close()
