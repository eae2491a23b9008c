"""What the tests of targets need besides a database: a handler on a registry of its own, and its jobs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

import pytest

from service.db.engine import Database
from service.jobs import BackgroundJob, JobId, NewJob, Registry, Worker, enqueue_batch, get_job
from service.jobs.core.job_types import policies
from service.settings import Settings
from service.targets.handler import JOB_TYPE, TargetSender, bind
from service.targets.tending import Tending
from tests.api.conftest import api_settings, app, auth, client
from tests.jobs.conftest import quick, sql

__all__ = ["api_settings", "app", "auth", "client", "quick", "sql"]


def result_of(job: BackgroundJob) -> dict[str, Any]:
    """The result of a job that must have one."""
    assert job.result is not None, job.last_error
    return dict(job.result)


Deliver = Callable[..., Awaitable[list[BackgroundJob]]]

HOME = ("127.0.0.1", "localhost")


class Process:
    """A worker that sends requests, with all that a process of the service has for it."""

    def __init__(self, database: Database, settings: Settings) -> None:
        # As the process has them: keys are made when jobs are enqueued.
        handlers = Registry(policies)
        self.sender: TargetSender = bind(database, settings, to=handlers)
        self.tending = Tending(database, self.sender.breakers, self.sender.connections)
        self.worker = Worker(database, settings, handlers=handlers)

    async def __aenter__(self) -> Self:
        await self.worker.start()
        await self.tending.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.tending.stop()
        await self.worker.stop()
        await self.sender.close()


StartProcess = Callable[..., Process]


@pytest.fixture
def process(database: Database, quick: Callable[..., Settings]) -> StartProcess:
    """Makes one, to be entered; it may call this machine."""

    def make(**overrides: Any) -> Process:
        values: dict[str, Any] = {"target_allowed": HOME, "target_ports": ("1-65535",)}
        return Process(database, quick(**(values | overrides)))

    return make


@pytest.fixture
def deliver(database: Database, process: StartProcess) -> Deliver:
    """Runs jobs of these payloads until each has ended, or waits for another attempt."""

    async def run(*payloads: dict[str, Any], **overrides: Any) -> list[BackgroundJob]:
        async with process(**overrides):
            ids = await put_requests(database, *payloads)

            async def tried() -> bool:
                found = await read_all(database, ids)
                return all(job.status != "RUNNING" and job.attempts for job in found)

            await eventually(tried)
            return await read_all(database, ids)

    return run


async def put_requests(
    database: Database, *payloads: dict[str, Any], **options: Any
) -> list[JobId]:
    """Enqueue a job for each payload."""
    async with database.sessions.begin() as session:
        jobs = [NewJob(JOB_TYPE, payload, **options) for payload in payloads]
        return [one.id for one in await enqueue_batch(session, jobs)]


async def read_all(database: Database, ids: list[JobId]) -> list[BackgroundJob]:
    """These jobs as they are now."""
    async with database.sessions() as session:
        return [await get_job(session, job_id) for job_id in ids]


async def eventually(condition: Callable[[], Awaitable[bool]], *, seconds: float = 30) -> None:
    """Look again and again until the condition holds, for a bounded time."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - what it looks at is in the database
            await asyncio.sleep(0.02)
