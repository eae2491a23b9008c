"""What is due runs in the transaction of the test, as a worker would run it."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from service.db.engine import Database
from service.errors import ConfigurationError, InvalidInput
from service.jobs import ChunkJob, JobContext, PermanentError, Registry, RetryAfter, Snooze, enqueue
from service.jobs.queues import pause_queue
from service.testing import JobFailed, Jobs, open_jobs
from tests.jobs.worker import process_handlers


class Parcel(BaseModel):
    weight: int


async def test_jobs_run_one_after_the_other_and_so_do_those_that_they_enqueue(
    jobs: Jobs, handlers: Registry, connection: AsyncConnection
) -> None:
    order: list[str] = []

    @handlers.handler("pack", payload_model=Parcel)
    async def pack(payload: Parcel, ctx: JobContext) -> dict[str, int]:
        order.append("pack")
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            await enqueue(session, "ship", {"weight": payload.weight})
            await session.commit()
        assert await ctx.progress(0.5, "packed")
        ctx.log("packed")
        return {"step": await ctx.step("weigh", lambda: payload.weight)}

    @handlers.handler("ship")
    def ship(payload: dict[str, Any]) -> None:
        order.append(f"ship {payload['weight']}")

    first = await jobs.enqueue("pack", {"weight": 3})
    await jobs.enqueue("pack", {"weight": 4}, delay_seconds=60)
    ran = await jobs.run_due()
    assert order == ["pack", "ship 3"]
    assert [(one.job_type, one.outcome, one.result) for one in ran] == [
        ("pack", "succeeded", {"step": 3}),
        ("ship", "succeeded", None),
    ]
    assert (await jobs.get(first.id)).status == "SUCCESS"
    assert await jobs.run_due() == []


async def test_what_a_handler_raises_is_recorded_and_then_raised(
    jobs: Jobs, handlers: Registry
) -> None:
    @handlers.handler("fragile", max_retries=1)
    async def fragile(payload: dict[str, Any]) -> None:
        raise {"permanent": PermanentError("no"), "later": RetryAfter(5), "plain": OSError("away")}[
            payload["how"]
        ]

    @handlers.handler("snoozes")
    def snoozes(payload: dict[str, Any]) -> None:
        raise Snooze(60)

    job = await jobs.enqueue("fragile", {"how": "plain"})
    with pytest.raises(OSError, match="away") as raised:
        await jobs.run_due()
    assert "In job 1 (fragile), attempt 1: retried" in raised.value.__notes__[0]
    assert (await jobs.get(job.id)).last_error == "OSError: away"
    for how in ("permanent", "later"):
        await jobs.enqueue("fragile", {"how": how})
    await jobs.enqueue("snoozes")
    ran = await jobs.run_due(raise_errors=False)
    assert [(one.outcome, one.delay_seconds) for one in ran] == [
        ("failed", None), ("retried", 5.0), ("snoozed", 60.0),
    ]  # fmt: skip
    assert isinstance(ran[0].error, PermanentError)


async def test_a_job_that_fails_without_an_error_of_its_handler_raises_one(
    jobs: Jobs, handlers: Registry
) -> None:
    @handlers.handler("pack", payload_model=Parcel)
    async def pack(payload: Parcel) -> None: ...

    await jobs.enqueue("pack", {"weight": "heavy"})
    with pytest.raises(JobFailed, match=r"job 1 \(pack\), attempt 1: failed: InvalidPayload"):
        await jobs.run_due()


async def test_jobs_of_a_chunk_come_to_their_handler_together_and_end_each_by_itself(
    jobs: Jobs, handlers: Registry, connection: AsyncConnection
) -> None:
    sizes: list[int] = []

    @handlers.handler("index", chunk=10, max_retries=0)
    async def index(chunk: list[ChunkJob[dict[str, int]]]) -> None:
        sizes.append(len(chunk))
        for job in chunk:
            await connection.exec_driver_sql("SELECT 1")
            if job.payload["n"] == 2:
                job.fail(ValueError("no page 2"))

    for n in range(12):
        await jobs.enqueue("index", {"n": n})
    await jobs.enqueue("index", {"n": 12}, queue="other")
    ran = await jobs.run_due(raise_errors=False)
    assert sum(sizes) == 13
    assert max(sizes) > 8
    assert [str(one.error) for one in ran if one.outcome == "dead_lettered"] == ["no page 2"]
    assert [one.outcome for one in ran].count("succeeded") == 12


async def test_handlers_for_processes_run_in_that_of_the_test(
    jobs: Jobs, handlers: Registry
) -> None:
    register = handlers.handler("resize", executor="process", payload_model=process_handlers.Image)
    register(process_handlers.resize)
    await jobs.enqueue("resize", {"width": 8})
    [ran] = await jobs.run_due()
    assert (ran.result["pid"], ran.result["width"]) == (os.getpid(), 4)


async def test_a_due_job_without_a_handler_is_no_silent_success(
    jobs: Jobs, handlers: Registry
) -> None:
    handlers.handler("known")(lambda payload: None)
    await jobs.enqueue("unknown")
    await jobs.enqueue("known")
    assert [one.job_type for one in await jobs.run_due(job_types=["known"])] == ["known"]
    with pytest.raises(
        ConfigurationError,
        match=r"'unknown' \(1\): import the module that registers it \(registered: known\)",
    ):
        await jobs.run_due()
    with pytest.raises(InvalidInput, match="job_types names 'knwon', and no handler"):
        await jobs.run_due(job_types=["knwon"])


async def test_a_handler_that_enqueues_itself_for_ever_is_stopped(
    jobs: Jobs, handlers: Registry, connection: AsyncConnection
) -> None:
    @handlers.handler("again")
    async def again(payload: dict[str, Any]) -> None:
        await enqueue(connection, "again")

    await jobs.enqueue("again")
    with pytest.raises(ConfigurationError, match="5 attempts ran and more may be due"):
        await jobs.run_due(limit=5)


async def test_the_engine_leaves_the_connection_to_a_handler_that_runs(
    jobs: Jobs, handlers: Registry, connection: AsyncConnection, errors_of: Callable[[str], float]
) -> None:
    @handlers.handler("slow")
    async def slow(payload: dict[str, Any], ctx: JobContext) -> None:
        ctx.log("its line is written after a fifth of a second")
        await connection.exec_driver_sql("SELECT pg_sleep(0.4)")

    await jobs.enqueue("slow")
    assert [ran.outcome for ran in await jobs.run_due()] == ["succeeded"]
    assert errors_of("job_logs") == 0
    lines = "SELECT count(*) FROM job_logs"
    assert (await connection.exec_driver_sql(lines)).scalar_one() == 1


async def test_a_paused_queue_waits_in_a_test_as_well(
    jobs: Jobs, handlers: Registry, connection: AsyncConnection
) -> None:
    handlers.handler("known")(lambda payload: None)
    await jobs.enqueue("known", queue="mail")
    async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
        await pause_queue(session, "mail")
        await session.commit()
    assert await jobs.run_due() == []


async def test_nothing_of_a_test_is_left(database: Database, handlers: Registry) -> None:
    handlers.handler("known")(lambda payload: None)
    async with database.engine.connect() as connection:
        await connection.begin()
        async with open_jobs(connection, handlers=handlers) as jobs:
            await jobs.enqueue("known")
            await jobs.enqueue("known", delay_seconds=60)
            assert len(await jobs.run_due()) == 1
        await connection.rollback()
        left = "SELECT count(*) FROM background_jobs UNION ALL SELECT count(*) FROM job_workers"
        counts = (await connection.exec_driver_sql(left)).scalars().all()
        assert counts == [0, 0]
        assert (await connection.exec_driver_sql("SHOW search_path")).scalar_one() == (
            "finmind_jobs, public"
        )
