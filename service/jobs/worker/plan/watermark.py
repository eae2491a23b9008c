"""Where claims of one lane begin."""

import time
from collections import deque
from typing import Final

from service.jobs.core.lane import LANE_START, Position

WINDOW_SECONDS: Final = 0.1
WINDOW_JOBS: Final = 1000
"""The lowest position claimed within this time, by the claims that brought the last so many jobs, is
where the next claim begins: jobs committed a little late are still above it. Later ones wait for the
next sweep. Each claim walks again what was claimed above the watermark, and while PostgreSQL cannot
remove that, walking it is slow."""

_NEVER: Final = float("-inf")


class Watermark:
    """The position in a lane below which claims do not look; sweeps do.

    It is the highest of three: the lowest of the positions claimed lately, the first job that the
    last listing saw, and how far claims have walked past jobs that this worker does not serve.
    """

    def __init__(self, head: Position) -> None:
        self._claims: deque[tuple[float, int, Position]] = deque()
        """When (monotonic), with how many jobs, and where the last claims began."""
        self._head = head
        """Where the first job was when the lane was last listed: all that was there lies above it."""
        self._walked = LANE_START
        """Where claims from here have come to: windows with nothing more for this worker."""
        self._listed_at = _NEVER

    def listed(self, head: Position) -> None:
        """Take over where the first job of the lane is."""
        self._head = head
        if self._listed_at == _NEVER:  # until now claims began where jobs came recently
            self._claims.clear()
            self._listed_at = time.monotonic()

    def is_newer_than(self, began: float) -> bool:
        """Whether the lane was first listed after a claim that began then (monotonic)."""
        return began < self._listed_at

    def claimed(self, first: Position, jobs: int) -> None:
        """Note where a claim found the first of so many jobs."""
        self._claims.append((time.monotonic(), jobs, first))

    def lower(self) -> None:
        """Forget what was claimed and walked: there are more jobs below."""
        self._claims.clear()
        self._walked = LANE_START

    def walked(self, up_to: Position) -> None:
        """A claim walked up to there and found nothing more for this worker."""
        self._walked = up_to

    def found_nothing(self, recent: Position) -> None:
        """A claim came to the end of the lane. Where none found anything, begin at what is recent.

        What lies below, like a job that runs for hours, need not be walked time and again.
        """
        if not self._claims:
            self._claims.append((time.monotonic(), 0, recent))

    @property
    def position(self) -> Position:
        """Where the next claim begins."""
        oldest = time.monotonic() - WINDOW_SECONDS
        jobs = sum(count for _, count, _ in self._claims)
        while len(self._claims) > 1 and (self._claims[0][0] < oldest or jobs > WINDOW_JOBS):
            jobs -= self._claims.popleft()[1]
        claimed = min((first for _, _, first in self._claims), default=LANE_START)
        return max(claimed, self._head, self._walked)
