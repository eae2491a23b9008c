"""Which lanes to claim from, in which order, and from which floor."""

import random
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobId
from service.jobs.core.lane import (
    LANE_START,
    MAX_LANES,
    SLACK_SECONDS,
    Lane,
    LaneHead,
    LaneRequest,
    Position,
)
from service.jobs.worker.plan.sweep import WHOLE, Sweep
from service.jobs.worker.slots import Slots

FLOOR_WINDOW_SECONDS: Final = 0.1
FLOOR_WINDOW_JOBS: Final = 1000
"""A floor is the lowest place claimed within this time, by the claims that brought the last so many
jobs: jobs committed a little late are still above it. Later ones wait for the next sweep. What was
claimed is walked by each claim from the floor; while it cannot be removed it is dear to walk."""

HEAD_WINDOW_SECONDS: Final = 5.0
"""What a listing did not see yet, though it was due before: jobs whose commit takes no longer than
this are above the floor that it gives. So are those in lanes that are known before any listing."""

NOT_LISTED: Final = float("-inf")


@dataclass(slots=True)
class _LaneState:
    recent: deque[tuple[float, int, Position]] = field(default_factory=deque)
    """When (monotonic), with how many jobs, and where the last claims began; the floor is the lowest
    of them."""
    head: Position = LANE_START
    """Where the first job was when lanes were last listed: all that was there lies above it."""
    listed_at: float = NOT_LISTED
    """When (monotonic) it was listed for the first time. Until then it is claimed from where jobs came
    recently."""
    walked: Position = LANE_START
    """Up to where claims from the floor have walked: windows that held nothing more for this worker."""
    fresh: bool = False
    """Whether a wake-up named the lane, or a claim found jobs in it, since lanes were last listed:
    where a listing does not reach it, it stays until the next."""


class Lanes:
    """The lanes that this worker knows to hold jobs. Refreshed from the table; wake-ups add to it."""

    def __init__(self, queues: tuple[str, ...], slots: Slots) -> None:
        self._served = {entry.partition(":")[0] for entry in queues}
        self._slots = slots
        self._states: dict[Lane, _LaneState] = {}
        self._gone: dict[Lane, _LaneState] = {}
        """Lanes that were empty when they were last listed, the last `MAX_LANES` of them: whoever
        comes into one again is above its floor."""
        self._sweep = Sweep()
        self._unswept: dict[Lane, Position] = {}
        """Lanes of which a sweep has not yet walked the whole of its slice, and where it goes on."""
        self._unlisted = LANE_START
        """Where a lane begins that no listing told of: at what came recently."""

    def saw_time(self, now: float) -> None:
        """What time it was just now by the database's clock, epoch seconds."""
        self._sweep.saw(now)
        self._unlisted = Position(now - HEAD_WINDOW_SECONDS, 0)

    @property
    def served(self) -> list[str] | None:
        """The queues that this worker is bound to; None for all."""
        return None if "*" in self._served else sorted(self._served)

    def known(self) -> list[Lane]:
        """The lanes that claims ask for."""
        return list(self._states)

    def serves(self, queue: str) -> bool:
        """Whether this worker takes jobs of the queue."""
        return "*" in self._served or queue in self._served

    def add(self, lanes: Iterable[Lane]) -> None:
        """A wake-up named these."""
        for lane in lanes:
            # Beside those that are listed, which are as many at the most.
            if self.serves(lane.queue) and len(self._states) < 2 * MAX_LANES:
                self._state(lane).fresh = True

    def replace(self, heads: Iterable[LaneHead]) -> bool:
        """Take over what the table lists; whether a lane is due that was not known before."""
        listed = [head for head in heads if self.serves(head.lane.queue)]
        found = any(head.due_in_seconds <= 0 and head.lane not in self._states for head in listed)
        before, self._states = self._states, {}
        for lane, state in before.items():
            (self._states if state.fresh else self._gone)[lane] = state
            state.fresh = False
        for head in listed:
            state = self._state(head.lane)
            # What comes now is due now, where the head is due later.
            state.head = Position(min(head.first_at, head.now - HEAD_WINDOW_SECONDS), 0)
            if state.listed_at == NOT_LISTED:  # now it is known where it begins
                state.recent.clear()
                state.listed_at = time.monotonic()
        if listed:
            self.saw_time(max(head.now for head in listed))
        for lane in list(islice(self._gone, max(0, len(self._gone) - MAX_LANES))):
            del self._gone[lane]
        return found

    def _state(self, lane: Lane) -> _LaneState:
        """Of a lane that claims ask for from now on, if they did not."""
        state = self._states.get(lane)
        if state is None:
            state = self._states[lane] = self._gone.pop(lane, _LaneState(head=self._unlisted))
        return state

    def requests(self, *, most: int, from_floor: bool) -> list[LaneRequest]:
        """What to ask of each lane: the most urgent priority first.

        Queues of one priority come in a random order, so that none starves.
        """
        whole = self._sweep.slice == (-WHOLE, WHOLE)
        low, below = self._sweep.slice
        order = sorted(self._states, key=lambda lane: (lane.priority, random.random()))  # noqa: S311
        requests = []
        for lane in order:
            free = self._slots.within_limit(lane.queue, most)
            if free <= 0:
                continue
            if from_floor:
                requests.append(LaneRequest(lane, self._floor(lane), free))
                continue
            if self._unswept and lane not in self._unswept:
                continue
            # What lies above the floor is for claims from there.
            due_before = WHOLE if whole else min(below, self._floor(lane).due_at + SLACK_SECONDS)
            floor = self._unswept.get(lane, Position(low, 0))
            if floor.due_at < due_before:
                requests.append(LaneRequest(lane, floor, free, due_before))
        return requests

    def claimed(
        self, jobs: Iterable[ClaimedJob], *, began: float, from_floor: bool, full: bool
    ) -> None:
        """Note where a claim that was sent at `began` (monotonic) found jobs in each lane.

        A sweep that found a few stragglers leaves the floors where they are; one that came back
        full says that there is more down there, and takes the floors down with it.
        """
        lowest: dict[tuple[str, int], tuple[float, JobId]] = {}
        many: Counter[tuple[str, int]] = Counter()
        for job in jobs:
            lane, place = (job.queue, job.priority), (job.due_at, job.id)
            many[lane] += 1
            if lane not in lowest or place < lowest[lane]:
                lowest[lane] = place
        now = time.monotonic()
        for lane, place in lowest.items():
            state = self._states.get(Lane(*lane))
            if state is None:
                continue
            state.fresh = True
            self._sweep.saw(place[0])
            if (from_floor or full) and began >= state.listed_at:
                if full and not from_floor:
                    state.recent.clear()
                    state.walked = LANE_START
                state.recent.append((now, many[lane], Position(*place)))

    def exhausted(
        self, requests: Iterable[LaneRequest], jobs: Iterable[ClaimedJob], *, began: float
    ) -> bool:
        """A claim from the floors brought all that there was for it: fewer jobs than it asked for.

        Where that was nothing, and nothing before, the next one begins at what came recently: what
        lies below, like a job that runs for hours, need not be walked time and again. Where it came
        to the end of a window, the next one begins there.

        Returns:
            Whether there is a lane of which more is due behind a window.
        """
        many = Counter(job.queue for job in jobs)
        now = time.monotonic()
        goes_on = False
        for request in requests:
            state = self._states.get(request.lane)
            if state is None or began < state.listed_at or many[request.lane.queue] >= request.most:
                continue
            if request.goes_on:
                state.walked = request.end
                goes_on = True
            elif not state.recent:
                state.recent.append((now, 0, self._unlisted))
        return goes_on

    @property
    def sweeps_whole(self) -> bool:
        """Whether the next sweep takes all that is due, above the floors as below them."""
        return self._sweep.slice == (-WHOLE, WHOLE) and not self._unswept

    @property
    def sweeps_first(self) -> bool:
        """Whether no round of sweeps has come to its end."""
        return self._sweep.first_round

    def swept(
        self,
        requests: Iterable[LaneRequest],
        jobs: Iterable[ClaimedJob],
        walked_seconds: float,
        *,
        full: bool,
    ) -> bool:
        """A claim below the floors was made: the next sweeps what comes after it.

        Returns:
            Whether it came to the end of its slice, in every lane.
        """
        many = Counter(job.queue for job in jobs)
        if not full:
            self._unswept = {
                request.lane: request.end
                for request in requests
                if request.goes_on and many[request.lane.queue] < request.most
            }
        if not self._unswept:
            self._sweep.stepped(walked_seconds, full=full)
        return not self._unswept

    def skip_slice(self) -> None:
        """No lane has anything for this sweep in the next slice."""
        self._unswept = {}
        free = [lane for lane in self._states if self._slots.within_limit(lane.queue, 1) > 0]
        if free:  # else it is not known what the slice holds
            highest = max(self._floor(lane).due_at for lane in free)
            self._sweep.skip_to(highest + SLACK_SECONDS)

    def _floor(self, lane: Lane) -> Position:
        state = self._states[lane]
        recent = state.recent
        limit = time.monotonic() - FLOOR_WINDOW_SECONDS
        behind = sum(jobs for _, jobs, _ in recent)
        while len(recent) > 1 and (recent[0][0] < limit or behind > FLOOR_WINDOW_JOBS):
            behind -= recent.popleft()[1]
        claimed = min((place for _, _, place in recent), default=LANE_START)
        return max(claimed, state.head, state.walked)
