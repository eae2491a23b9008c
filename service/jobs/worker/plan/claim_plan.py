"""What the next claim asks for; docs/claims.md draws how it is decided."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from service.db.connection import Link
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import LANE_START, KeysRequest, KeysWalk, Lane, LaneRequest
from service.jobs.flow.queues import QueuePolicies
from service.jobs.worker.plan.ageing import Ageing
from service.jobs.worker.plan.key_turns import KeyTurns
from service.jobs.worker.plan.lane_watcher import LaneWatcher
from service.jobs.worker.plan.lanes import Lanes
from service.jobs.worker.plan.orphans import LOOK_SECONDS, Orphans
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


class Look(Enum):
    """What a claim looks for."""

    ORPHANS = auto()
    """Orphans of queues that may be at a limit, and nothing else."""
    AGED = auto()
    """Jobs that more urgent ones have kept waiting for too long."""
    SWEEP = auto()
    """Jobs below the watermarks: late commits and expired leases."""
    WATERMARK = auto()
    """Jobs from the watermarks up."""
    KEYS = auto()
    """Jobs of the keys of a lane, which take turns."""


@dataclass(frozen=True, slots=True)
class Step:
    """One claim to make."""

    requests: Sequence[LaneRequest]
    look: Look
    planned_at: float
    """Monotonic; the end of its windows was asked for after this."""
    asked_at: float
    """Monotonic; the claim is sent at once."""
    keys: KeysRequest | None = None
    """What is asked of the keys of a lane, in place of the lane."""

    @property
    def orphans_alone(self) -> bool:
        """Whether it takes no job that is PENDING."""
        return self.look is Look.ORPHANS


class ClaimPlan:
    """Decides what one worker claims next, and learns from what came back.

    A round is a look for orphans of queues with limits where one is due, a claim of aged jobs where it is their
    turn, a sweep where one is due, then a claim from the watermarks, in parts where keys take turns:
    `start_round`, then `next` and `returned` until `next` has no step.
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
        self._ageing = Ageing(self._lanes, seconds=settings.priority_ageing_seconds)
        self._turns = KeyTurns(longest_rest_seconds=settings.sweep_seconds)
        self._sweep = Sweep(self._lanes)
        self._orphans = Orphans(self._lanes)
        self._watcher = LaneWatcher(
            settings,
            link=lanes_link,
            lanes=self._lanes,
            ageing=self._ageing,
            queues=queues,
            wake=wake,
        )
        self._windows, self._sweep_windows = Windows(link), Windows(link)
        self._aged_windows, self._orphan_windows = Windows(link), Windows(link)
        self._next_sweep = 0.0
        self._next_orphans = 0.0
        self._to_rescue = False
        self._to_age = False
        self._to_sweep = False
        self._to_claim = False
        """What is left of this round: orphans, aged jobs, a sweep, claims from the watermarks."""
        self._keys_go_on = False
        """Whether a claim by keys of this round left some."""
        self._fastest_claim = float("inf")
        self._empty_claim_walked = 0.0
        self.rest_seconds = 0.0
        """How long to rest after the last round, which walked far and found nothing."""
        self.walks_on = False
        """Whether more is due that the last round could have brought: behind the end of a window, or of a
        queue that was asked for its share alone."""

    # -- what is known of the lanes ---------------------------------------------------------------

    def begin(self, now: float) -> None:
        """The worker was registered at that time, epoch seconds by the database's clock."""
        self._lanes.saw_time(now)

    def wake(self, lanes: Sequence[Lane]) -> None:
        """Jobs were committed in these lanes; with none, somewhere."""
        self._lanes.add(lanes)
        if not lanes:
            self._watcher.ask()

    def known_lanes(self) -> list[Lane]:
        """The lanes that claims ask for."""
        return self._lanes.known()

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
        self._to_rescue = self._to_age = self._to_claim = True
        self._keys_go_on = False
        self._turns.start([], 0)
        return self._to_sweep

    async def next(self, limit: int) -> Step | None:
        """The next claim of this round, for up to `limit` jobs; None where there is none.

        Raises:
            DATABASE_ERRORS: the database did not answer where windows end.
        """
        if self._to_rescue:
            self._to_rescue = False
            if step := await self._orphans_step(limit):
                return step
        if self._to_age:
            self._to_age = False
            if step := await self._aged_step(limit):
                return step
        if self._to_sweep:
            self._to_sweep = False
            if step := await self._sweep_step(limit):
                return step
        if self._to_claim:
            self._to_claim = False
            self._turns.start(self._lanes.requests(limit), limit)
        return await self._claim_step(limit)

    def returned(
        self, step: Step, jobs: list[ClaimedJob], *, full: bool, walk: KeysWalk | None = None
    ) -> None:
        """Take in what a claim brought.

        Args:
            step: what was asked for.
            jobs: what came.
            full: whether there may be more of them in the same place.
            walk: how far it went from key to key; None where it did not.
        """
        walked = self._walked(time.monotonic() - step.asked_at)
        if step.look is Look.ORPHANS:
            self._rescued(step, jobs, walked, full=full)
            return
        # Slots are left, and a queue has more than its share.
        more = self._lanes.shares.took(jobs, full=full)
        self._turns.took(jobs)
        match step.look:
            case Look.AGED:
                self._aged(step, jobs, walked, full=full)
            case Look.SWEEP:
                self._swept(step, jobs, walked, full=full, more=more)
            case Look.WATERMARK:
                self._claimed(step, jobs, walked, full=full, more=more)
            case Look.KEYS:
                self._took_turns(step, jobs, walk, full=full, more=more)

    async def _orphans_step(self, limit: int) -> Step | None:
        planned_at = time.monotonic()
        if planned_at < self._next_orphans or not (requests := self._orphans.requests(limit)):
            return None
        requests = await self._orphan_windows.narrow(requests)
        return Step(requests, Look.ORPHANS, planned_at, time.monotonic())

    def _rescued(self, step: Step, jobs: list[ClaimedJob], walked: float, *, full: bool) -> None:
        self._orphan_windows.claimed(step.requests, walked_seconds=walked, full=full)
        self._orphans.returned(step.requests, full=full)
        took = time.monotonic() - step.planned_at
        pause = min(max(took / SWEEP_SHARE, LOOK_SECONDS), self._sweep_seconds)
        self._next_orphans = step.planned_at + (0.0 if full else pause)
        self._lanes.swept(jobs, began=step.asked_at, full=False)

    async def _aged_step(self, limit: int) -> Step | None:
        requests = self._ageing.requests(limit)
        if not requests:
            return None
        requests = await self._aged_windows.narrow(requests)
        asked_at = time.monotonic()
        return Step(requests, Look.AGED, asked_at, asked_at)

    def _aged(self, step: Step, jobs: list[ClaimedJob], walked: float, *, full: bool) -> None:
        self._aged_windows.claimed(step.requests, walked_seconds=walked, full=full)
        self._ageing.returned(step.requests, jobs, full=full)
        # Like stragglers, they leave the watermarks where they are.
        self._lanes.swept(jobs, began=step.asked_at, full=False)

    async def _sweep_step(self, limit: int) -> Step | None:
        planned_at = time.monotonic()
        requests = self._turns.of_those_without(self._sweep.requests(limit), limit)
        if not requests:
            self._to_claim = not self._sweep.takes_all or self._lanes.some_keys_take_turns
            self._sweep.skip_slice()
            self._next_sweep = planned_at + MIN_SWEEP_SECONDS
            return None
        requests = await self._sweep_windows.narrow(requests)
        return Step(requests, Look.SWEEP, planned_at, time.monotonic())

    def _swept(
        self, step: Step, jobs: list[ClaimedJob], walked: float, *, full: bool, more: bool
    ) -> None:
        whole = self._sweep.takes_all
        complete = self._sweep.returned(step.requests, jobs, walked, full=full or more)
        self.walks_on = more
        # One that took all that is due leaves nothing to the claim from the watermarks.
        self._to_claim = not (whole and complete) or self._lanes.some_keys_take_turns
        self._sweep_windows.claimed(
            step.requests, walked_seconds=walked, full=full, unknown_ahead=self._sweep.first_round
        )
        took = time.monotonic() - step.planned_at
        # A full sweep too: it took the watermarks down with it, and the rest lies above them.
        self._next_sweep = step.planned_at + min(
            max(took / SWEEP_SHARE, MIN_SWEEP_SECONDS), self._sweep_seconds
        )
        self._lanes.swept(jobs, began=step.asked_at, full=full or more)

    async def _claim_step(self, limit: int) -> Step | None:
        part = self._turns.next(limit)
        if part is None:
            return None
        if isinstance(part, KeysRequest):
            lane = LaneRequest(part.lane, LANE_START, part.limit)
            asked_at = time.monotonic()
            return Step([lane], Look.KEYS, asked_at, asked_at, part)
        requests = await self._windows.narrow(part)
        asked_at = time.monotonic()
        return Step(requests, Look.WATERMARK, asked_at, asked_at)

    def _claimed(
        self, step: Step, jobs: list[ClaimedJob], walked: float, *, full: bool, more: bool
    ) -> None:
        self._windows.claimed(step.requests, walked_seconds=walked, full=full)
        # One that was slow says nothing: the network may have been, or this process stood still.
        slow, self._empty_claim_walked = (
            min(walked, self._empty_claim_walked), 0.0 if jobs else walked
        )  # fmt: skip
        if not jobs and slow > SLOW_CLAIM_SECONDS:
            # They walked far: jobs of types that are served elsewhere.
            self.rest_seconds = min(slow / EMPTY_CLAIM_SHARE, self._sweep_seconds)
        if full or more:
            self.walks_on = more
        else:
            self.walks_on = self._lanes.exhausted(step.requests, jobs, began=step.asked_at)
        self.walks_on |= self._keys_go_on
        self._lanes.claimed(jobs, began=step.asked_at)

    def _took_turns(
        self, step: Step, jobs: list[ClaimedJob], walk: KeysWalk | None, *, full: bool, more: bool
    ) -> None:
        assert step.keys is not None
        took = time.monotonic() - step.asked_at
        left = self._turns.returned(step.keys, jobs, walk, took_seconds=took)
        self._keys_go_on |= more or (left and not full)
        self.walks_on |= self._keys_go_on
        # They lie anywhere in the lane: its watermark is for jobs without a key.
        self._lanes.swept(jobs, began=step.asked_at, full=False)

    def _walked(self, took_seconds: float) -> float:
        """How long a claim walked: what the fastest of all took is the way there and back."""
        self._fastest_claim = min(took_seconds, self._fastest_claim)
        return took_seconds - self._fastest_claim
