"""The leader's part in steps: drops those of jobs that are gone."""

from typing import Final

from service.db.connection import Link
from service.jobs import store

JOBS: Final = 1_000
"""Jobs that one statement looks at."""

DUTIES: Final = (store.steps.DROP_STEPS_OF_NO_JOB, store.steps.DROP_EVENTS_OF_NO_JOB)

MAX_BATCHES: Final = 20
"""Limit on those statements in one round, of steps and of events each."""


class Steps:
    """Walks through all steps and events, a part of them in each round.

    Days of finished jobs are dropped whole: no statement tells whose steps go with them.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._after = [0] * len(DUTIES)

    async def drop_of_no_job(self) -> None:
        """Drop the steps and events of jobs that are gone, among the next jobs that have any."""
        for turn, statement in enumerate(DUTIES):
            for _ in range(MAX_BATCHES):
                last = await store.steps.drop_of_no_job(
                    self._link, statement, after=self._after[turn], limit=JOBS
                )
                self._after[turn] = last or 0
                if last is None:
                    break
