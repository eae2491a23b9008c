"""Time passes when the test says."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import InvalidInput
from service.jobs import JobContext, Registry
from service.testing import Jobs


async def test_retries_come_due_when_the_clock_is_moved(jobs: Jobs, handlers: Registry) -> None:
    @handlers.handler("flaky")
    async def flaky(payload: dict[str, Any], ctx: JobContext) -> int:
        if ctx.attempt < 3:
            raise OSError("away")
        return ctx.attempt

    job = await jobs.enqueue("flaky")
    for seconds in (30, 120):
        [ran] = await jobs.run_due(raise_errors=False)
        assert ran.delay_seconds == seconds
        await jobs.move_clock(seconds=seconds - 1)
        assert await jobs.run_due() == []
        await jobs.move_clock(seconds=1)
    assert [ran.result for ran in await jobs.run_due()] == [3]
    assert (await jobs.get(job.id)).attempts == 3


async def test_what_is_enqueued_later_is_due_later(jobs: Jobs, handlers: Registry) -> None:
    handlers.handler("known")(lambda payload: None)
    now = await jobs.now()
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)
    assert await jobs.move_clock(days=400, hours=1) - now >= timedelta(days=400, hours=1)
    await jobs.enqueue("known", {"n": 1}, delay_seconds=60)
    await jobs.assert_enqueued("known", delay_seconds=60)
    assert await jobs.run_due() == []
    await jobs.move_clock(to=await jobs.now() + timedelta(minutes=1))
    assert len(await jobs.run_due()) == 1


async def test_a_step_that_waits_goes_on_when_its_time_has_come(
    jobs: Jobs, handlers: Registry
) -> None:
    @handlers.handler("trial")
    async def trial(payload: dict[str, Any], ctx: JobContext) -> str:
        began = await ctx.step("began", lambda: "began")
        await ctx.sleep(86_400)
        return f"{began}, ended"

    await jobs.enqueue("trial")
    assert [ran.outcome for ran in await jobs.run_due()] == ["suspended"]
    await jobs.move_clock(hours=23)
    assert await jobs.run_due() == []
    await jobs.move_clock(hours=1)
    assert [ran.result for ran in await jobs.run_due()] == ["began, ended"]


async def test_statements_of_the_application_see_the_time_of_the_test(
    jobs: Jobs, connection: AsyncConnection
) -> None:
    await jobs.move_clock(days=10)
    ahead = text(
        "SELECT now() - pg_catalog.now() > interval '9 days',"
        " clock_timestamp() - pg_catalog.clock_timestamp() > interval '9 days'"
    )
    assert (await connection.execute(ahead)).one() == (True, True)
    savepoint = await connection.begin_nested()
    await jobs.move_clock(days=1)
    await savepoint.rollback()
    assert await jobs.now() > datetime.now(UTC) + timedelta(days=10)
    assert (await connection.execute(ahead)).one() == (True, True)


async def test_the_clock_goes_forward_only(jobs: Jobs) -> None:
    with pytest.raises(InvalidInput, match=r"would go back by 0:05:00, expected a later time"):
        await jobs.move_clock(minutes=-5)
    with pytest.raises(InvalidInput, match="got to=2050-01-01T00:00:00 without a time zone"):
        await jobs.move_clock(to=datetime(2050, 1, 1))  # noqa: DTZ001
