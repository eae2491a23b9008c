"""The log lines for jobs whose type nobody handles, failed or waiting: few, however many jobs."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from service.observability.logging import get_logger

EVERY_SECONDS: Final = 60.0
MAX_TYPES: Final = 20
"""Types that have a line of their own each time; names come from clients, and have no end."""

_log = get_logger(__name__)


class UnservedLog:
    """Writes one line a type and minute, with the number of jobs; the first at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: Counter[str] = Counter()
        self._next = 0.0
        self._next_waiting = 0.0

    def add(self, job_types: Iterable[str]) -> None:
        """Take in the types of failed jobs, one for each job, and write the lines that are due."""
        self._jobs.update(job_types)
        now = self._clock()
        if not self._jobs or now < self._next:
            return
        self._next = now + EVERY_SECONDS
        named = self._jobs.most_common(MAX_TYPES)
        for job_type, jobs in named:
            _log.error("no_handler", job_type=job_type, jobs=jobs)
        more = self._jobs.total() - sum(jobs for _, jobs in named)
        if more:
            types = len(self._jobs) - len(named)
            _log.error("no_handler", job_type="other", job_types=types, jobs=more)
        self._jobs.clear()

    def add_waiting(self, jobs: Mapping[str, int]) -> None:
        """Write how many jobs of each type wait for a worker now, where the lines are due."""
        now = self._clock()
        if not jobs or now < self._next_waiting:
            return
        self._next_waiting = now + EVERY_SECONDS
        for job_type, count in Counter(jobs).most_common(MAX_TYPES):
            _log.warning("waiting_for_worker", job_type=job_type, jobs=count)
