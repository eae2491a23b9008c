"""What is asked for orphans of queues with limits, which claims and sweeps may leave alone."""

from collections.abc import Iterable
from typing import Final

from service.jobs.core.lane import LANE_START, Lane, LaneRequest, Position
from service.jobs.worker.plan.lanes import Lanes

LOOK_SECONDS: Final = 1.0
"""How often they are looked for."""


class Orphans:
    """Looks for orphans of queues that limit what runs or starts.

    A queue at its limit is asked for nothing, and the jobs of a dead worker have the permits that all others
    of it wait for. Such a look begins at the start of each lane, and takes no job that is PENDING.
    """

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._from: dict[Lane, Position] = {}
        """Where it goes on in lanes that the last look did not walk to their end."""

    def requests(self, limit: int) -> list[LaneRequest]:
        """What the next look asks of each lane: nothing where no queue has a limit."""
        return [
            LaneRequest(lane, self._from.get(lane, LANE_START), jobs)
            for lane, jobs in self._lanes.of_limited_queues(limit)
        ]

    def returned(self, requests: Iterable[LaneRequest], *, full: bool) -> None:
        """Take in how far the look came; one that came back `full` leaves more in the same place."""
        if not full:
            self._from = {one.lane: one.end for one in requests if one.continues}
