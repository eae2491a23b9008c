"""What the next claim asks for; docs/claims.md draws how it is decided."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from service.db.connection import Link
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import Lane, LaneRequest
from service.jobs.flow.queues import QueuePolicies
from service.jobs.worker.plan.lane_watcher import LaneWatcher
from service.jobs.worker.plan.lanes import Lanes
from service.jobs.worker.plan.sweep import Sweep
from service.jobs.worker.plan.windows import Windows
from service.settings import Settings

SWEEP_SHARE: Final = 0.05
"""Share of the time that sweeps may take: slow ones (dead index entries) come more rarely."""

MIN_SWEEP_SECONDS: Final = 0.1
"""Sweeps come no more often than this."""

FIRST_LISTING_SECONDS: Final = 0.05
"""How long a new worker waits for its first listing, before it looks where jobs came recently."""

SLOW_CLAIM_SECONDS: Final = 0.02
"""A claim that walked longer than this and found nothing is followed by a rest."""

EMPTY_CLAIM_SHARE: Final = 0.1
"""Share of the time that such claims may take."""


@dataclass(frozen=True, slots=True)
class Step:
    """One claim to make."""

    requests: Sequence[LaneRequest]
    sweeps: bool
    """Whether it looks below the watermarks: for late commits and expired leases."""
    planned_at: float
    """Monotonic; the end of its windows was asked for after this."""
    asked_at: float
    """Monotonic; the claim is sent at once."""


class ClaimPlan:
    """Decides what one worker claims next, and learns from what came back.

    A round is a sweep where one is due, then a claim from the watermarks: `start_round`, then
    `next` and `returned` until `next` has no step.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        link: Link,
        lanes_link: Link,
        queues: QueuePolicies,
        wake: Callable[[], None],
    ) -> None:
        self._link = link
        self._sweep_seconds = settings.sweep_seconds
        self._lanes = Lanes(queues)
        self._sweep = Sweep(self._lanes)
        self._watcher = LaneWatcher(
            settings, link=lanes_link, lanes=self._lanes, queues=queues, wake=wake
        )
        self._windows, self._sweep_windows = Windows(link), Windows(link)
        self._next_sweep = 0.0
        self._to_sweep = False
        self._to_claim = False
        """What is left of this round: a sweep, a claim from the watermarks."""
        self._fastest_claim = float("inf")
        self._empty_claim_walked = 0.0
        self.rest_seconds = 0.0
        """How long to rest after the last round, which walked far and found nothing."""
        self.walks_on = False
        """Whether the last round came to the end of a window, and more is due behind it."""

    # -- what is known of the lanes ---------------------------------------------------------------

    def begin(self, now: float) -> None:
        """The worker was registered at that time, epoch seconds by the database's clock."""
        self._lanes.saw_time(now)

    def wake(self, lanes: Sequence[Lane]) -> None:
        """Jobs were committed in these lanes; with none, somewhere."""
        self._lanes.add(lanes)
        if not lanes:
            self._watcher.ask()

    async def watch_lanes(self) -> None:
        """List the lanes over and over until cancelled, less often when listing is slow."""
        await self._watcher.watch()

    async def list_lanes(self) -> bool:
        """List the lanes once; whether these were the last of them.

        Raises:
            DATABASE_ERRORS: the database does not answer.
        """
        await self._watcher.once()
        return self._watcher.complete

    async def find_first_lanes(self, pause: Callable[[float], Awaitable[bool]]) -> None:
        """Find where to begin: lanes where jobs came recently, if the first listing takes a while.

        Args:
            pause: waits up to so many seconds for a wake-up; False to give up.
        """
        until = time.monotonic() + FIRST_LISTING_SECONDS
        while (left := until - time.monotonic()) > 0:
            if self._watcher.listed or self._lanes.known() or not await pause(left):
                return
        await self._watcher.add_recent(self._link)

    def seconds_until_due(self) -> float:
        """How long until the first job that was listed is due; 0 where it has been already."""
        return self._watcher.seconds_until_due()

    def seconds_until_sweep(self) -> float:
        """How long until the next sweep is due, in the first round of them: nobody knows what there is."""
        if not self._sweep.first_round:
            return float("inf")
        return max(0.0, self._next_sweep - time.monotonic())

    # -- one round --------------------------------------------------------------------------------

    def start_round(self) -> bool:
        """Begin a round of claims; whether a sweep comes first."""
        self.rest_seconds, self.walks_on = 0.0, False
        self._to_sweep = time.monotonic() >= self._next_sweep
        self._to_claim = True
        return self._to_sweep

    async def next(self, limit: int) -> Step | None:
        """The next claim of this round, for up to `limit` jobs; None where there is none.

        Raises:
            DATABASE_ERRORS: the database did not answer where windows end.
        """
        if self._to_sweep:
            self._to_sweep = False
            if step := await self._sweep_step(limit):
                return step
        if self._to_claim:
            self._to_claim = False
            return await self._watermark_step(limit)
        return None

    def returned(self, step: Step, jobs: list[ClaimedJob], *, full: bool) -> None:
        """Take in what a claim brought.

        Args:
            step: what was asked for.
            jobs: what came.
            full: whether there may be more of them in the same place.
        """
        walked = self._walked(time.monotonic() - step.asked_at)
        if step.sweeps:
            self._swept(step, jobs, walked, full=full)
        else:
            self._claimed(step, jobs, walked, full=full)

    async def _sweep_step(self, limit: int) -> Step | None:
        planned_at = time.monotonic()
        requests = self._sweep.requests(limit)
        if not requests:
            self._to_claim = not self._sweep.takes_all
            self._sweep.skip_slice()
            self._next_sweep = planned_at + MIN_SWEEP_SECONDS
            return None
        requests = await self._sweep_windows.narrow(requests)
        return Step(requests, True, planned_at, time.monotonic())

    def _swept(self, step: Step, jobs: list[ClaimedJob], walked: float, *, full: bool) -> None:
        whole = self._sweep.takes_all
        complete = self._sweep.returned(step.requests, jobs, walked, full=full)
        # One that took all that is due leaves nothing to the claim from the watermarks.
        self._to_claim = not (whole and complete)
        self._sweep_windows.claimed(
            step.requests, walked_seconds=walked, full=full, unknown_ahead=self._sweep.first_round
        )
        took = time.monotonic() - step.planned_at
        # A full sweep too: it took the watermarks down with it, and the rest lies above them.
        self._next_sweep = step.planned_at + min(
            max(took / SWEEP_SHARE, MIN_SWEEP_SECONDS), self._sweep_seconds
        )
        self._lanes.swept(jobs, began=step.asked_at, full=full)

    async def _watermark_step(self, limit: int) -> Step | None:
        requests = self._lanes.requests(limit)
        if not requests:
            return None
        requests = await self._windows.narrow(requests)
        asked_at = time.monotonic()
        return Step(requests, False, asked_at, asked_at)

    def _claimed(self, step: Step, jobs: list[ClaimedJob], walked: float, *, full: bool) -> None:
        self._windows.claimed(step.requests, walked_seconds=walked, full=full)
        # One that was slow says nothing: the network may have been, or this process stood still.
        slow, self._empty_claim_walked = (
            min(walked, self._empty_claim_walked), 0.0 if jobs else walked
        )  # fmt: skip
        if not jobs and slow > SLOW_CLAIM_SECONDS:
            # They walked far: jobs of types that are served elsewhere.
            self.rest_seconds = min(slow / EMPTY_CLAIM_SHARE, self._sweep_seconds)
        if not full:
            self.walks_on = self._lanes.exhausted(step.requests, jobs, began=step.asked_at)
        self._lanes.claimed(jobs, began=step.asked_at)

    def _walked(self, took_seconds: float) -> float:
        """How long a claim walked: what the fastest of all took is the way there and back."""
        self._fastest_claim = min(took_seconds, self._fastest_claim)
        return took_seconds - self._fastest_claim
