"""Timeouts on one timer."""

import asyncio
import time

from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobId, LeaseToken
from service.jobs.core.job_types import DEFAULTS
from service.jobs.handlers.registry import HandlerSpec
from service.jobs.worker.run import NEVER, Run
from service.jobs.worker.timeouts import Timeouts

BOUND_SECONDS = 5.0


def run_until(timeout_at: float) -> Run:
    """A run of any job with this timeout."""
    job = ClaimedJob(
        JobId(1), LeaseToken(1), "q", "mail", 2, 1, None, None, 0, 0.0, 0.0, "{}", None
    )
    handler = HandlerSpec("mail", print, is_async=False, takes_context=False, policy=DEFAULTS)
    return Run(job, DEFAULTS, 0.0, handler, NEVER, timeout_at)


class Watched:
    """Runs under watch, and what was told of them."""

    def __init__(self, wanted: int) -> None:
        self.runs: set[Run] = set()
        self.told: list[Run] = []
        self.all_told = asyncio.Event()
        self.deadlines = Timeouts(self.runs, self.note)
        self._wanted = wanted

    def note(self, run: Run) -> None:
        assert run.timeout_at == NEVER or run.timeout_at <= time.monotonic()
        self.told.append(run)
        if len(self.told) == self._wanted:
            self.all_told.set()

    def run_for(self, seconds: float) -> Run:
        run = run_until(time.monotonic() + seconds)
        self.runs.add(run)
        self.deadlines.watch(run)
        return run

    async def until_all_are_told(self) -> None:
        async with asyncio.timeout(BOUND_SECONDS):
            await self.all_told.wait()
        self.deadlines.close()


async def test_runs_are_reported_once_in_the_order_of_their_timeouts() -> None:
    watched = Watched(3)
    late, early, middle = (watched.run_for(seconds) for seconds in (0.15, 0.01, 0.08))

    await watched.until_all_are_told()

    assert watched.told == [early, middle, late]


async def test_a_run_that_ended_is_not_reported_and_hides_no_later_one() -> None:
    watched = Watched(1)
    ended, later = watched.run_for(0.01), watched.run_for(0.05)
    watched.runs.discard(ended)

    await watched.until_all_are_told()

    assert watched.told == [later]


async def test_a_run_that_goes_on_is_reported_once() -> None:
    watched = Watched(2)
    stubborn, last = watched.run_for(0.01), watched.run_for(0.1)

    await watched.until_all_are_told()

    assert watched.told == [stubborn, last]


async def test_a_timeout_beyond_every_clock_is_waited_for_in_peace() -> None:
    watched = Watched(1)
    watched.run_for(NEVER)
    watched.run_for(1e9)
    soon = watched.run_for(0.01)

    await watched.until_all_are_told()

    assert watched.told == [soon]
