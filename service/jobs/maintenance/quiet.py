"""Whether a round of the leader's duties may be left out, because no job is there to do them for."""

from typing import Final

from service.db.connection import Link
from service.jobs import store

ROUNDS_AFTER_JOBS: Final = 4
"""Rounds in a row without a live job until duties are left out: by then they have counted, folded and told
what the last jobs left behind. New jobs take the longest, three rounds (`created_jobs.py`)."""

QUIET_ROUNDS: Final = 6
"""While it stays quiet, duties are done once in so many rounds: settings and gauges may change without a job."""


class Quiet:
    """Counts the rounds since the last one in which a job was live or had been enqueued."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._newest = -1
        self._rounds = 0
        self.skips_round = False
        """Whether this round's duties may be left out."""

    def forget(self) -> None:
        """Begin anew: another process led meanwhile."""
        self._newest, self._rounds, self.skips_round = -1, 0, False

    async def look(self) -> None:
        """See whether any job is live, or has been since the last look.

        Raises:
            DATABASE_ERRORS: the database did not answer; no round is skipped then.
        """
        self.skips_round = False
        newest, live = await store.created_jobs.newest(self._link)
        self._rounds = 0 if live or newest != self._newest else self._rounds + 1
        self._newest = newest
        self.skips_round = self._rounds > ROUNDS_AFTER_JOBS and self._rounds % QUIET_ROUNDS > 0
