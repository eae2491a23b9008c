"""The permits of queues that limit how many of their jobs run at once, as one process knows them.

It decides how many jobs a claim asks for. Whether a job gets a permit is decided by the database
(`store/admission.py`).
"""

from service.jobs.core.holds import QUEUE


class QueuePermits:
    """How many permits of each queue with a limit seem to be free."""

    def __init__(self) -> None:
        self._free: dict[str, int] = {}

    def read(self, free: dict[str, int]) -> None:
        """Take over what the database says."""
        self._free = free

    def free(self, queue: str) -> int | None:
        """How many permits of the queue seem to be free; None where it needs none."""
        return self._free.get(queue)

    def took(self, queue: str) -> None:
        """A job of the queue was admitted."""
        if queue in self._free:
            self._free[queue] -= 1

    def held(self, held_for: str) -> None:
        """A job was held for this limit: it has no permit left."""
        if (queue := held_for.removeprefix(QUEUE)) in self._free:
            self._free[queue] = 0

    def freed(self, permit: str, jobs: int) -> None:
        """So many jobs that had this permit have settled."""
        if (queue := permit.removeprefix(QUEUE)) in self._free:
            self._free[queue] += jobs
