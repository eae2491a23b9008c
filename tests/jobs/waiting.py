"""Waiting for what must come, with a bound: no test sleeps for a guessed time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from service.jobs.core.job import JobStatus

T = TypeVar("T")

ENDED = frozenset(JobStatus) - {JobStatus.PENDING, JobStatus.RUNNING}


async def until(condition: Callable[[], Awaitable[T]], *, seconds: float = 15.0) -> T:
    """The first true value of `condition`, looked at every few milliseconds."""
    async with asyncio.timeout(seconds):
        while not (value := await condition()):  # noqa: ASYNC110 - looks at another process
            await asyncio.sleep(0.01)
    return value


async def until_true(condition: Callable[[], bool], *, seconds: float = 15.0) -> None:
    """Return once `condition` holds."""

    async def look() -> bool:
        return condition()

    await until(look, seconds=seconds)


async def occurs(event: asyncio.Event, *, seconds: float = 15.0) -> None:
    """Wait for an event, with a bound."""
    async with asyncio.timeout(seconds):
        await event.wait()


async def until_job(sql: "asyncpg.Connection[asyncpg.Record]", job_id: int, *, where: str) -> Any:
    """The job's row once it fulfils the SQL condition `where`."""

    async def look() -> Any:
        return await sql.fetchrow(
            f"SELECT * FROM background_jobs WHERE id = $1 AND {where}", job_id
        )

    return await until(look)


async def until_ended(sql: "asyncpg.Connection[asyncpg.Record]", job_id: int) -> Any:
    """The job's row once it has ended."""
    return await until_job(sql, job_id, where="status NOT IN ('PENDING', 'RUNNING')")


async def until_failed_once(sql: "asyncpg.Connection[asyncpg.Record]", job_id: int) -> Any:
    """The job's row once an attempt failed and it waits for the next."""
    return await until_job(sql, job_id, where="status = 'PENDING' AND attempts > 0")
