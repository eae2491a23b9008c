"""Time-outs on one timer."""

import asyncio
import time
from dataclasses import dataclass

from service.jobs.worker.timeouts import NEVER, Timeouts

BOUND_SECONDS = 5.0


@dataclass(eq=False)
class Timed:
    timeout_at: float = NEVER


class Watched:
    """Runs under watch, and what was told of them."""

    def __init__(self, wanted: int) -> None:
        self.runs: set[Timed] = set()
        self.told: list[Timed] = []
        self.all_told = asyncio.Event()
        self.deadlines = Timeouts(self.runs, self.note)
        self._wanted = wanted

    def note(self, run: Timed) -> None:
        assert run.timeout_at == NEVER or run.timeout_at <= time.monotonic()
        self.told.append(run)
        if len(self.told) == self._wanted:
            self.all_told.set()

    def run_for(self, seconds: float) -> Timed:
        run = Timed(time.monotonic() + seconds)
        self.runs.add(run)
        self.deadlines.watch(run)
        return run

    async def until_all_are_told(self) -> None:
        async with asyncio.timeout(BOUND_SECONDS):
            await self.all_told.wait()
        self.deadlines.close()


async def test_each_run_is_told_once_in_the_order_of_their_time_outs() -> None:
    watched = Watched(3)
    late, early, middle = (watched.run_for(seconds) for seconds in (0.15, 0.01, 0.08))

    await watched.until_all_are_told()

    assert watched.told == [early, middle, late]


async def test_a_run_that_ended_is_not_told_and_does_not_hide_later_ones() -> None:
    watched = Watched(1)
    ended, later = watched.run_for(0.01), watched.run_for(0.05)
    watched.runs.discard(ended)

    await watched.until_all_are_told()

    assert watched.told == [later]


async def test_a_run_that_goes_on_is_not_told_again() -> None:
    watched = Watched(2)
    stubborn, last = watched.run_for(0.01), watched.run_for(0.1)

    await watched.until_all_are_told()

    assert watched.told == [stubborn, last]


async def test_a_time_out_beyond_every_clock_is_waited_for_in_peace() -> None:
    watched = Watched(1)
    watched.run_for(NEVER)
    watched.run_for(1e9)
    soon = watched.run_for(0.01)

    await watched.until_all_are_told()

    assert watched.told == [soon]
