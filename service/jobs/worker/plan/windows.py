"""How far one claim walks, so that jobs which others serve hold up nobody."""

from collections.abc import Sequence
from typing import Final

from service.db.connection import Link
from service.jobs import store
from service.jobs.core.lane import LaneRequest

WINDOW_JOBS: Final = 10_000
"""Due jobs that one claim walks, in all of its lanes together: some milliseconds."""

MIN_WINDOW_JOBS: Final = 100
"""However many lanes there are, so many of each."""

FAR_SECONDS: Final = 0.005
"""A claim that took longer and found less than it asked for may have walked more than a window."""


class Windows:
    """The windows of one kind of claim: those from the floors, or sweeps.

    A claim that finds what it asks for stops by itself. One that does not walks all that is due in
    its lanes, and a queue may hold millions of jobs that this worker does not serve. After such a
    claim, or one that failed, the next first asks where its windows end. That is asked again until
    the lanes have been walked through, so claims at the end of a lane pay nothing for it.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._far = True
        """Whether the next claim may have far to walk. Nobody knows yet what there is."""

    async def narrow(self, requests: Sequence[LaneRequest]) -> list[LaneRequest]:
        """What the next claim asks for.

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
        """The claim was made.

        Args:
            requests: what it asked for.
            walked_seconds: how long it took, the way to the database not counted.
            full: whether it found as many jobs as it asked for.
            unknown_ahead: whether the next one looks where none has looked before.
        """
        narrowed = any(request.goes_on for request in requests)
        far = narrowed or walked_seconds > FAR_SECONDS
        self._far = unknown_ahead or (far and not full)
