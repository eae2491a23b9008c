"""What the tests of targets need besides a database: a handler on a registry of its own, and its jobs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import BackgroundJob, NewJob, Registry, Worker, enqueue_batch, get_job
from service.jobs.core.job_types import policies
from service.settings import Settings
from service.targets.handler import JOB_TYPE, TargetSender, bind
from tests.api.conftest import api_settings, app, auth, client
from tests.jobs.conftest import quick, sql

__all__ = ["api_settings", "app", "auth", "client", "quick", "sql"]


def result_of(job: BackgroundJob) -> dict[str, Any]:
    """The result of a job that must have one."""
    assert job.result is not None, job.last_error
    return dict(job.result)


Deliver = Callable[..., Awaitable[list[BackgroundJob]]]

HOME = ("127.0.0.1", "localhost")


@pytest.fixture
def deliver(database: Database, quick: Callable[..., Settings]) -> Deliver:
    """Runs jobs of these payloads until each has ended, or waits for another attempt."""

    async def run(*payloads: dict[str, Any], **overrides: Any) -> list[BackgroundJob]:
        values: dict[str, Any] = {"target_allowed": HOME, "target_ports": ("1-65535",)}
        options = {name: overrides.pop(name) for name in ("max_retries",) if name in overrides}
        settings = quick(**(values | overrides))
        handlers = Registry(policies)  # as the process has it: keys are made when jobs are enqueued
        sender: TargetSender = bind(settings, to=handlers)
        worker = Worker(database, settings, handlers=handlers)
        async with database.sessions.begin() as session:
            jobs = [NewJob(JOB_TYPE, payload, **options) for payload in payloads]
            made = await enqueue_batch(session, jobs)
        await worker.start()
        try:
            async with asyncio.timeout(30):
                while True:
                    async with database.sessions() as session:
                        found = [await get_job(session, one.id) for one in made]
                    if all(job.status != "RUNNING" and job.attempts for job in found):
                        return found
                    await asyncio.sleep(0.01)
        finally:
            await worker.stop()
            await sender.close()

    return run
