"""The same for tests that are plain functions: an event loop of its own runs what `Jobs` does."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from typing import Any, Final, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs import BackgroundJob, EnqueuedJob, JobId, Registry, registry
from service.testing.enqueued import ANY
from service.testing.jobs import Jobs, open_jobs
from service.testing.owner import connection_to
from service.testing.ran import Ran

T = TypeVar("T")


@contextmanager
def open_sync_jobs(
    url: str, *, handlers: Registry = registry, **settings: Any
) -> Iterator["SyncJobs"]:
    """The jobs of one test, in a transaction on the database at `url`, which is rolled back; see `open_jobs`."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def enter() -> Jobs:
            connection = await stack.enter_async_context(connection_to(url))
            return await stack.enter_async_context(
                open_jobs(connection, handlers=handlers, **settings)
            )

        try:
            yield SyncJobs(runner.run(enter()), runner)
        finally:
            runner.run(stack.aclose())


class SyncJobs:
    """What `Jobs` does, without `await`; `run` calls coroutine functions of the application on its connection."""

    def __init__(self, jobs: Jobs, runner: asyncio.Runner) -> None:
        self._jobs = jobs
        self._runner = runner
        self.target: Final = jobs.target

    def run(self, function: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """What the coroutine function returns that gets the connection of the test."""

        async def call() -> T:
            return await function(await self._jobs.connection())

        return self._runner.run(call())

    def enqueue(self, job_type: str, payload: object = None, **options: Any) -> EnqueuedJob:
        """See `Jobs.enqueue`."""
        return self._runner.run(self._jobs.enqueue(job_type, payload, **options))

    def run_due(
        self, *, job_types: Collection[str] | None = None, raise_errors: bool = True
    ) -> list[Ran]:
        """See `Jobs.run_due`."""
        return self._runner.run(self._jobs.run_due(job_types=job_types, raise_errors=raise_errors))

    def run_for(
        self,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        raise_errors: bool = True,
    ) -> list[Ran]:
        """See `Jobs.run_for`."""
        return self._runner.run(
            self._jobs.run_for(
                days=days,
                hours=hours,
                minutes=minutes,
                seconds=seconds,
                raise_errors=raise_errors,
            )
        )

    def move_clock(
        self,
        *,
        to: datetime | None = None,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> datetime:
        """See `Jobs.move_clock`."""
        return self._runner.run(
            self._jobs.move_clock(to=to, days=days, hours=hours, minutes=minutes, seconds=seconds)
        )

    def start_schedules(self, *names: str) -> list[str]:
        """See `Jobs.start_schedules`."""
        return self._runner.run(self._jobs.start_schedules(*names))

    def now(self) -> datetime:
        """See `Jobs.now`."""
        return self._runner.run(self._jobs.now())

    def get(self, job_id: JobId | int) -> BackgroundJob:
        """See `Jobs.get`."""
        return self._runner.run(self._jobs.get(job_id))

    def enqueued(
        self, job_type: str | None = None, payload: Any = ANY, **options: Any
    ) -> list[BackgroundJob]:
        """See `Jobs.enqueued`."""
        return self._runner.run(self._jobs.enqueued(job_type, payload, **options))

    def assert_enqueued(
        self, job_type: str, payload: Any = ANY, *, count: int | None = None, **options: Any
    ) -> BackgroundJob:
        """See `Jobs.assert_enqueued`."""
        return self._runner.run(
            self._jobs.assert_enqueued(job_type, payload, count=count, **options)
        )

    def assert_not_enqueued(
        self, job_type: str | None = None, payload: Any = ANY, **options: Any
    ) -> None:
        """See `Jobs.assert_not_enqueued`."""
        self._runner.run(self._jobs.assert_not_enqueued(job_type, payload, **options))
