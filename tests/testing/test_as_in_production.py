"""A job comes to the same end in a test as in a pass that commits."""

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from service.db.engine import Database
from service.jobs import (
    BackgroundJob,
    ChunkJob,
    JobContext,
    NewJob,
    PermanentError,
    Registry,
    RetryAfter,
    Snooze,
    enqueue_batch,
    process_due_jobs,
)
from service.testing import open_jobs
from service.testing.settings import settings_of


class Parcel(BaseModel):
    weight: int


@pytest.fixture
def every_end(handlers: Registry) -> Registry:
    """Handlers that end in every way."""
    ends: dict[str, Exception] = {
        "fails": OSError("away"),
        "permanent": PermanentError("no"),
        "later": RetryAfter(7),
        "snoozes": Snooze(60),
        "several": ExceptionGroup("two", [OSError("one"), RetryAfter(9)]),
    }

    def ending(error: Exception) -> Any:
        def end(payload: dict[str, Any]) -> None:
            raise error

        return end

    for name, error in ends.items():
        handlers.handler(name)(ending(error))

    @handlers.handler("waits")
    async def waits(payload: dict[str, Any], ctx: JobContext) -> None:
        await ctx.step("one", lambda: 1)
        await ctx.progress(0.5, "half")
        await ctx.sleep(3600)

    @handlers.handler("chunk", chunk=5)
    def chunk(jobs: list[ChunkJob[dict[str, int]]]) -> None:
        for job in jobs:
            if job.payload["n"] > 0:
                job.succeed(job.payload["n"])
            else:
                job.fail(OSError("away"))

    handlers.handler("succeeds")(lambda payload: {"got": payload})
    handlers.handler("model", payload_model=Parcel)(lambda parcel: parcel.weight)
    handlers.handler("no_json")(lambda payload: object())
    return handlers


def jobs_of_every_kind() -> list[NewJob]:
    names = ("fails", "permanent", "later", "snoozes", "several", "waits", "succeeds", "no_json")
    return [
        *(NewJob(name, {"name": name}) for name in names),
        *(NewJob("chunk", {"n": n}) for n in range(3)),
        NewJob("model", {"weight": 3}),
        NewJob("model", {"weight": "heavy"}),
        NewJob("fails", max_retries=0),
        NewJob("succeeds", delay_seconds=60),
    ]


def ends_of(jobs: Sequence[BackgroundJob]) -> list[Any]:
    """What became of them, without what no two runs have in common."""
    return [
        (
            job.job_type,
            job.payload,
            job.status,
            job.attempts,
            job.result,
            job.progress,
            job.last_error,
            [(entry["event"], entry["type"], entry["message"]) for entry in job.errors or ()],
            round((job.due_at - job.created_at).total_seconds() / 10),
        )
        for job in jobs
    ]


async def test_jobs_end_as_they_do_in_production(
    database: Database, connection: AsyncConnection, every_end: Registry
) -> None:
    query = select(BackgroundJob).order_by(BackgroundJob.id)
    async with open_jobs(connection, handlers=every_end) as jobs:
        await enqueue_batch(connection, jobs_of_every_kind())
        await jobs.run_due(raise_errors=False)
        async with AsyncSession(connection) as session:
            in_test = ends_of((await session.scalars(query)).all())
    await connection.rollback()
    async with database.sessions.begin() as session:
        await enqueue_batch(session, jobs_of_every_kind())
    await process_due_jobs(database, settings=settings_of(), handlers=every_end)
    async with database.sessions() as session:
        in_production = ends_of((await session.scalars(query)).all())
    assert in_test == in_production
    assert {status for _, _, status, *_ in in_test} == {
        "SUCCESS", "PENDING", "FAILED", "DEAD_LETTER",
    }  # fmt: skip
