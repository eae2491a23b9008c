"""Time passes as it does while a service runs."""

from datetime import timedelta
from typing import Any

import pytest

from service.errors import ConfigurationError, InvalidInput
from service.jobs import JobContext, Registry
from service.schedules.declared import Declarations
from service.testing import Jobs


@pytest.fixture
def times(handlers: Registry, declared: Declarations) -> list[str]:
    """The ticks that the handler of a schedule was called for."""
    seen: list[str] = []

    @declared.schedule("0 6 * * *")
    @handlers.handler("digest", max_retries=0)
    async def digest(payload: dict[str, Any], ctx: JobContext) -> None:
        tick = await ctx.tick()
        assert tick is not None
        seen.append(f"{tick.planned_at:%H:%M}")

    return seen


async def test_every_tick_has_its_run_while_time_passes(jobs: Jobs, times: list[str]) -> None:
    assert await jobs.start_schedules() == ["digest"]
    ran = await jobs.run_for(days=3)
    assert times == ["06:00"] * 3
    assert [one.outcome for one in ran] == ["succeeded"] * 3


async def test_a_tick_that_the_clock_passes_enqueues_its_job(jobs: Jobs, times: list[str]) -> None:
    await jobs.move_clock(days=1)
    assert await jobs.run_due() == []  # none was started
    await jobs.start_schedules("digest")
    await jobs.move_clock(days=1)
    await jobs.assert_enqueued("digest", count=1)
    await jobs.run_due()
    assert times == ["06:00"]


async def test_retries_and_steps_take_their_time(jobs: Jobs, handlers: Registry) -> None:
    at: list[timedelta] = []
    began = await jobs.now()

    @handlers.handler("trial")
    async def trial(payload: dict[str, Any], ctx: JobContext) -> None:
        at.append(await jobs.now() - began)
        if ctx.attempt < 3:
            raise OSError("away")
        await ctx.sleep(3600)

    await jobs.enqueue("trial", delay_seconds=10)
    ran = await jobs.run_for(hours=2, raise_errors=False)
    assert [one.outcome for one in ran] == ["retried", "retried", "suspended", "succeeded"]
    seconds = [one.total_seconds() for one in at]
    assert seconds == pytest.approx([10, 40, 160, 3760], abs=5)
    assert await jobs.now() - began >= timedelta(hours=2)


async def test_a_move_past_thousands_of_ticks_is_refused(
    jobs: Jobs, handlers: Registry, declared: Declarations, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared.schedule(every_seconds=60)(handlers.handler("often")(lambda payload: None))
    monkeypatch.setattr("service.testing.passing.MAX_MOMENTS", 3)
    await jobs.start_schedules()
    with pytest.raises(ConfigurationError, match=r"ticks \(of 'often' most of them\)"):
        await jobs.move_clock(days=7)


async def test_what_cannot_be_is_refused(jobs: Jobs, times: list[str]) -> None:
    with pytest.raises(InvalidInput, match=r"run_for got 0:00:00, expected a time above 0"):
        await jobs.run_for()
    with pytest.raises(InvalidInput, match="names has 'digset', and no @schedule makes one"):
        await jobs.start_schedules("digset")
