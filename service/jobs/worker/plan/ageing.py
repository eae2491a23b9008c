"""Which claims begin with jobs that more urgent ones of their queue have kept waiting for too long."""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Final

from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import Lane, LaneHead, LaneRequest, Position
from service.jobs.worker.plan.lanes import Lanes

CLAIMS_PER_TURN: Final = 10
"""One claim in so many begins with jobs that have waited too long, while there are any."""

EMPTY_TURN_SHARE: Final = 0.1
"""A lane in which none was found is left alone for this share of the ageing time: its first job runs for
hours, or other workers serve it."""


class Ageing:
    """Lets no job of a queue wait for ever behind more urgent ones.

    A job that has been due for `PRIORITY_AGEING_SECONDS` is aged. Each listing of the lanes tells in
    which of them the first job is. Claims look there from that job on, whatever the lane's watermark:
    the job may have been committed late, or its lease may have ended, and sweeps begin with the most
    urgent as well.
    """

    def __init__(self, lanes: Lanes, *, seconds: float) -> None:
        self._lanes = lanes
        self._seconds = seconds
        """0: jobs do not age."""
        # By chance, so that passes of a single claim each come to it as well.
        self._claims = int(time.monotonic() * 1000) % CLAIMS_PER_TURN
        """How many there were since the last that began with aged jobs."""
        self._before = 0.0
        """Jobs due earlier than this, epoch seconds, were aged when the lanes were last listed."""
        self._from: dict[Lane, Position] = {}
        """Lanes that hold aged jobs, and where the next look begins; the one whose turn it is first."""
        self._walking: set[Lane] = set()
        """Lanes in which it goes on behind a window."""
        self._empty_until: dict[Lane, float] = {}
        """Monotonic: when lanes in which none was found are looked at again."""

    def listed(self, heads: Iterable[LaneHead]) -> None:
        """The lanes were listed: these hold jobs."""
        if not self._seconds:
            return
        now = time.monotonic()
        self._empty_until = {
            lane: until for lane, until in self._empty_until.items() if until > now
        }
        for head in heads:
            self._before = max(self._before, head.now - self._seconds)
            aged = head.due_at < self._before and head.lane not in self._empty_until
            if aged and head.lane not in self._walking:
                self._from[head.lane] = Position(head.first_at, 0)

    def requests(self, limit: int) -> list[LaneRequest]:
        """What the next claim asks for before all else: nothing, as a rule."""
        self._claims += 1
        if not self._from or self._claims < CLAIMS_PER_TURN:
            return []
        most_urgent: dict[str, int] = {}
        known = self._lanes.known()
        for queue, priority in known:
            most_urgent[queue] = min(priority, most_urgent.get(queue, priority))
        passed_over = {lane for lane in known if lane.priority > most_urgent[lane.queue]}
        self._from = {lane: start for lane, start in self._from.items() if lane in passed_over}
        self._walking &= passed_over
        turns: dict[str, Lane] = {}
        for lane in self._from:
            turns.setdefault(lane.queue, lane)
        return [
            LaneRequest(turns[queue], self._from[turns[queue]], jobs, self._before)
            for queue, jobs in self._lanes.shares.of_claim(turns, limit)
        ]

    def returned(
        self, requests: Iterable[LaneRequest], jobs: Iterable[ClaimedJob], *, full: bool
    ) -> None:
        """Take in what came; `full`: the last of the lanes may not have been looked at."""
        self._claims = 0
        brought = Counter(Lane(job.queue, job.priority) for job in jobs)
        for request in requests:
            lane = request.lane
            if brought[lane] < request.limit and not full:
                self._looked(request, found_some=brought[lane] > 0)
            elif brought[lane]:  # there may be more, but others of its queue come first
                self._from[lane] = self._from.pop(lane)

    def _looked(self, request: LaneRequest, *, found_some: bool) -> None:
        """Note that a look came to the end of what it asked for."""
        lane = request.lane
        del self._from[lane]
        self._walking.discard(lane)
        if request.continues:
            self._from[lane] = request.end
            self._walking.add(lane)
        elif not found_some:
            self._empty_until[lane] = time.monotonic() + self._seconds * EMPTY_TURN_SHARE
