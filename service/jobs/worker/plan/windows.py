"""Limit how far one claim walks, so that jobs that other workers serve hold up nobody."""

from collections.abc import Sequence
from typing import Final

from service.db.connection import Link
from service.jobs import store
from service.jobs.core.lane import LaneRequest

WINDOW_JOBS: Final = 10_000
"""Due jobs that one claim walks, in all of its lanes together: some milliseconds of work."""

MIN_WINDOW_JOBS: Final = 100
"""At least so many of each lane, however many lanes there are."""

FAR_SECONDS: Final = 0.005
"""A claim that took longer and found less than it asked for may have walked more than a window."""


class Windows:
    """The windows of one kind of claim: from the watermarks, or sweeps.

    A claim that finds what it asks for stops by itself. Any other walks all that is due in its
    lanes, and a queue may hold millions of jobs that this worker does not serve. After such a claim,
    or one that failed, the next one first asks where its windows end, until the lanes have been
    walked through. Claims at the end of a lane pay nothing for it.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._far = True
        """Whether the next claim may have far to walk; at first nobody knows."""

    async def narrow(self, requests: Sequence[LaneRequest]) -> list[LaneRequest]:
        """The same requests, each up to the end of its window where the next claim may walk far.

        Raises:
            DATABASE_ERRORS: the database did not answer.
        """
        if not self._far:
            self._far = True  # should the claim fail
            return list(requests)
        jobs = max(WINDOW_JOBS // len(requests), MIN_WINDOW_JOBS)
        return await store.claim.within_windows(self._link, requests, jobs=jobs)

    def claimed(
        self,
        requests: Sequence[LaneRequest],
        *,
        walked_seconds: float,
        full: bool,
        unknown_ahead: bool = False,
    ) -> None:
        """Take in what the claim brought.

        Args:
            requests: what it asked for.
            walked_seconds: how long it took, without the way to the database and back.
            full: whether it found as many jobs as it asked for.
            unknown_ahead: whether the next one looks where none has looked before.
        """
        narrowed = any(request.continues for request in requests)
        far = narrowed or walked_seconds > FAR_SECONDS
        self._far = unknown_ahead or (far and not full)
