"""What a sweep asks for: jobs below the watermarks, committed late or under leases that ended."""

from collections import Counter
from collections.abc import Iterable

from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import SLACK_SECONDS, Lane, LaneRequest, Position
from service.jobs.worker.plan.lanes import Lanes
from service.jobs.worker.plan.slices import WHOLE, Slices


class Sweep:
    """Sweeps all known lanes, a slice of due times at a step."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._slices = Slices()
        self._unfinished: dict[Lane, Position] = {}
        """Lanes of which the slice is not walked to its end, and where it goes on."""

    @property
    def takes_all(self) -> bool:
        """Whether the next step takes all that is due, above the watermarks as below them."""
        return self._slices.slice == (-WHOLE, WHOLE) and not self._unfinished

    @property
    def first_round(self) -> bool:
        """Whether there are due times that no step has come to yet."""
        return self._slices.first_round

    def requests(self, limit: int) -> list[LaneRequest]:
        """What the next step asks of each lane; nothing where no lane reaches into its slice."""
        self._slices.saw(self._lanes.newest)
        low, below = self._slices.slice
        whole = (low, below) == (-WHOLE, WHOLE)
        spans: dict[Lane, tuple[Position, float]] = {}
        for lane in self._lanes.known():
            if self._unfinished and lane not in self._unfinished:
                continue
            start = self._unfinished.get(lane, Position(low, 0))
            # What lies above the watermark is for claims from there.
            end = WHOLE if whole else min(below, self._lanes.watermark(lane).due_at + SLACK_SECONDS)
            if start.due_at < end:
                spans[lane] = start, end
        return [
            LaneRequest(
                lane, spans[lane][0], jobs, spans[lane][1],
                unkeyed=self._lanes.keys_take_turns(lane),
            )
            for lane, jobs in self._lanes.in_order(limit, spans)
        ]  # fmt: skip

    def returned(
        self,
        requests: Iterable[LaneRequest],
        jobs: Iterable[ClaimedJob],
        walked_seconds: float,
        *,
        full: bool,
    ) -> bool:
        """Take in what a step brought.

        Args:
            requests: what it asked for.
            jobs: what came.
            walked_seconds: how long it took, the way to the database not counted.
            full: whether there may be more in the same slice.

        Returns:
            Whether it came to the end of its slice, in every lane.
        """
        many = Counter(job.queue for job in jobs)
        if not full:
            self._unfinished = {
                request.lane: request.end
                for request in requests
                if request.continues and many[request.lane.queue] < request.limit
            }
        if not self._unfinished:
            self._slices.stepped(walked_seconds, full=full)
        return not self._unfinished

    def skip_slice(self) -> None:
        """Go on to the next slice that some lane reaches into."""
        self._unfinished = {}
        highest = self._lanes.highest_due_at()
        if highest is not None:  # else it is not known what the slice holds
            self._slices.skip_to(highest + SLACK_SECONDS)
