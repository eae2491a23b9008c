"""The lanes that a worker knows to hold jobs, and where claims of each begin."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Final

from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import LANE_START, MAX_LANES, Lane, LaneHead, LaneRequest, Position
from service.jobs.flow.queues import QueuePolicies
from service.jobs.worker.plan.queue_shares import QueueShares
from service.jobs.worker.plan.watermark import Watermark

HEAD_WINDOW_SECONDS: Final = 5.0
"""A listing does not see jobs that were due before and are committed later: those whose commit takes
no longer than this are above the watermark all the same. So are those of lanes that are known before
any listing."""

_PRIORITY: Final = attrgetter("priority")


@dataclass(slots=True)
class _Known:
    watermark: Watermark
    fresh: bool = False
    """Whether a wake-up named the lane, or a claim found jobs in it, since lanes were last listed:
    if the listing does not reach it, it stays until the next."""


class Lanes:
    """The lanes that claims ask for: refreshed from the table; wake-ups add to them."""

    def __init__(self, queues: QueuePolicies) -> None:
        self._queues = queues
        self.shares: Final = QueueShares(queues)
        self._known: dict[Lane, _Known] = {}
        self._gone: dict[Lane, _Known] = {}
        """Lanes that were empty when they were last listed, the last `MAX_LANES` of them: a job that
        comes into one again is above its watermark."""
        self._recent = LANE_START
        """Where claims of a lane begin that no listing has seen yet."""
        self.newest = float("-inf")
        """By the database's clock it is at least so late, epoch seconds."""

    def saw_time(self, now: float) -> None:
        """It is so late by the database's clock, epoch seconds."""
        self._recent = Position(now - HEAD_WINDOW_SECONDS, 0)
        self.newest = max(self.newest, now)

    def known(self) -> list[Lane]:
        """The lanes that claims ask for."""
        return list(self._known)

    def add(self, lanes: Iterable[Lane]) -> None:
        """Add the lanes that a wake-up names."""
        for lane in lanes:
            # Beside those that are listed, which are at most as many.
            if self._queues.serves(lane.queue) and len(self._known) < 2 * MAX_LANES:
                self._state(lane).fresh = True

    def replace(self, heads: Iterable[LaneHead]) -> bool:
        """Take over what the table lists; whether a lane is due that was not known before."""
        listed = [head for head in heads if self._queues.serves(head.lane.queue)]
        found = any(head.due_in_seconds <= 0 and head.lane not in self._known for head in listed)
        before, self._known = self._known, {}
        for lane, state in before.items():
            (self._known if state.fresh else self._gone)[lane] = state
            state.fresh = False
        for head in listed:
            # What comes now is due now, where the head is due later.
            first = Position(min(head.first_at, head.now - HEAD_WINDOW_SECONDS), 0)
            self._state(head.lane).watermark.listed(first)
        if listed:
            self.saw_time(max(head.now for head in listed))
        for lane in list(islice(self._gone, max(0, len(self._gone) - MAX_LANES))):
            del self._gone[lane]
        return found

    def _state(self, lane: Lane) -> _Known:
        """The state of a lane that claims ask for from now on."""
        state = self._known.get(lane)
        if state is None:
            state = self._gone.pop(lane, None) or _Known(Watermark(self._recent))
            self._known[lane] = state
        return state

    def in_order(self, limit: int, among: Iterable[Lane] | None = None) -> list[tuple[Lane, int]]:
        """The lanes to ask for, queue by queue as their turn is, and up to how many jobs of each.

        Those of a queue come together, the most urgent first; the number is for all of them.

        Args:
            limit: how many jobs the claim may bring.
            among: of these lanes alone.
        """
        lanes_of = _by_queue(self._known if among is None else among)
        shares = self.shares.of_claim(lanes_of, limit)
        return [(lane, jobs) for queue, jobs in shares for lane in lanes_of[queue]]

    def of_limited_queues(self, limit: int) -> list[tuple[Lane, int]]:
        """The lanes of which claims may leave orphans alone, and how many of each queue may run here."""
        limited = [lane for lane in self._known if self._queues.may_leave_orphans(lane.queue)]
        if not limited:
            return []
        allowed = {lane.queue: self._queues.allows_here(lane.queue, limit) for lane in limited}
        return [
            (lane, allowed[queue])
            for queue, lanes in _by_queue(limited).items()
            if allowed[queue] > 0
            for lane in lanes
        ]

    def highest_due_at(self) -> float | None:
        """The highest due time of a watermark, of the lanes below their limits; None without one."""
        return max(
            (
                self.watermark(lane).due_at
                for lane in self._known
                if self._queues.allows(lane.queue, 1) > 0
            ),
            default=None,
        )

    def watermark(self, lane: Lane) -> Position:
        """Where claims of a known lane begin."""
        return self._known[lane].watermark.position

    @property
    def some_keys_take_turns(self) -> bool:
        """Whether there may be a lane whose keys take turns."""
        return bool(self._queues.settings.fair)

    def keys_take_turns(self, lane: Lane) -> bool:
        """Whether claims of a lane leave jobs with a key to those by keys."""
        return lane.queue in self._queues.settings.fair

    def requests(self, limit: int) -> list[LaneRequest]:
        """What a claim from the watermarks asks of each lane."""
        return [
            LaneRequest(lane, self.watermark(lane), jobs, unkeyed=self.keys_take_turns(lane))
            for lane, jobs in self.in_order(limit)
        ]

    def claimed(self, jobs: Iterable[ClaimedJob], *, began: float) -> None:
        """Note where a claim that was sent at `began` (monotonic) found jobs in each lane."""
        for lane, (first, count) in _firsts(jobs).items():
            if state := self._known.get(lane):
                state.fresh = True
                self.newest = max(self.newest, first.due_at)
                if not state.watermark.is_newer_than(began):
                    state.watermark.claimed(first, count)

    def swept(self, jobs: Iterable[ClaimedJob], *, began: float, full: bool) -> None:
        """Note what a sweep found.

        One that found a few stragglers leaves the watermarks where they are; one that came back
        `full` says that there is more down there, and takes the watermarks down with it.
        """
        for lane, (first, count) in _firsts(jobs).items():
            if state := self._known.get(lane):
                state.fresh = True
                self.newest = max(self.newest, first.due_at)
                if full and not state.watermark.is_newer_than(began):
                    state.watermark.lower()
                    state.watermark.claimed(first, count)

    def exhausted(
        self, requests: Iterable[LaneRequest], jobs: Iterable[ClaimedJob], *, began: float
    ) -> bool:
        """Note that a claim from the watermarks brought all there was: fewer jobs than it asked for.

        Returns:
            Whether there is a lane of which more is due behind a window.
        """
        many = Counter(job.queue for job in jobs)
        goes_on = False
        for request in requests:
            state = self._known.get(request.lane)
            if (
                state is None
                or state.watermark.is_newer_than(began)
                or many[request.lane.queue] >= request.limit
            ):
                continue
            if request.continues:
                state.watermark.walked(request.end)
                goes_on = True
            else:
                state.watermark.found_nothing(self._recent)
        return goes_on


def _by_queue(lanes: Iterable[Lane]) -> dict[str, list[Lane]]:
    """The lanes of each queue, the most urgent first."""
    lanes_of: dict[str, list[Lane]] = {}
    for lane in sorted(lanes, key=_PRIORITY):
        lanes_of.setdefault(lane.queue, []).append(lane)
    return lanes_of


def _firsts(jobs: Iterable[ClaimedJob]) -> dict[Lane, tuple[Position, int]]:
    """The first position and the number of these jobs in each lane."""
    lowest: dict[tuple[str, int], tuple[float, int]] = {}
    counts: Counter[tuple[str, int]] = Counter()
    for job in jobs:
        lane, position = (job.queue, job.priority), (job.due_at, job.id)
        counts[lane] += 1
        if lane not in lowest or position < lowest[lane]:
            lowest[lane] = position
    return {Lane(*lane): (Position(*lowest[lane]), counts[lane]) for lane in lowest}
