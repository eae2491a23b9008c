"""Takes claimed jobs in for the workers that wait for them."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from service.jobs.core.attempt import Attempt, InvalidPayload
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.outcome_policy import OutcomePolicy
from service.jobs.core.outcomes import Cancelled, HowCancelled, Outcome, Released
from service.jobs.core.payload_keys import PayloadKeyMissing
from service.jobs.core.poison import PoisonPolicy
from service.jobs.flow.queues import QueuePolicies
from service.jobs.handlers.payload import opened_payload
from service.jobs.handlers.registry import Registry
from service.jobs.worker.settler import Settler
from service.jobs.worker.slots import Slots
from service.remote.model import Arrived
from service.settings import Settings


class Wanted(Slots):
    """As many slots as waiting claims want jobs; what arrived and was not handed over takes them."""

    def __init__(self, queues: QueuePolicies) -> None:
        super().__init__(0, queues)

    def want(self, jobs: int) -> None:
        """A claim waits for so many."""
        self.total += jobs
        self.look_again()

    def want_no_more(self, jobs: int) -> None:
        """It waits no longer."""
        self.total -= jobs


class Desk:
    """The `Runner` of one line: what is started here waits to be handed over."""

    def __init__(
        self, settings: Settings, *, registry: Registry, slots: Slots, settler: Settler, name: str
    ) -> None:
        self._registry = registry
        self._slots = slots
        self._settler = settler
        self._poison = PoisonPolicy(settings, worker_name=name)
        self._policy = OutcomePolicy(settings, worker_name=name)
        self.runs: Final[set[Attempt]] = set()
        self.arrived: Final[deque[Arrived]] = deque()
        self.some: Final = asyncio.Event()
        """Set when a job arrives."""

    def start(self, job: ClaimedJob, *, lease_deadline: float) -> None:
        """Take one job in, or settle it where it must not run."""
        attempt = self._attempt(job, lease_deadline)
        unfit = self._unfit(attempt)
        if unfit is not None:
            self._settler.settle(attempt, unfit)
            self._slots.release(job.queue)
            return
        self.runs.add(attempt)
        self.arrived.append(attempt)
        self.some.set()

    def give_back(self, job: ClaimedJob, *, lease_deadline: float) -> Attempt:
        """Put one job back that nobody waits for."""
        attempt = self._attempt(job, lease_deadline)
        self._settler.settle(attempt, self._unfit(attempt) or Released())
        return attempt

    def take(self, limit: int, size_limit: int, size_of: Callable[[Arrived], int]) -> list[Arrived]:
        """The first that arrived, up to so many and of such a size; one at least where there are any."""
        taken: list[Arrived] = []
        size = 0
        while self.arrived and len(taken) < limit:
            size += size_of(self.arrived[0])
            if taken and size > size_limit:
                break
            taken.append(self.arrived.popleft())
        return taken

    def left(self, attempt: Arrived) -> None:
        """One is handed over, or settled."""
        self.runs.discard(attempt)
        self._slots.release(attempt.job.queue)

    def put_back(self, attempt: Arrived, outcome: Outcome | None = None) -> None:
        """Put back one that could not be handed over."""
        self._settler.settle(attempt, outcome or Released())
        self.left(attempt)

    def _attempt(self, job: ClaimedJob, lease_deadline: float) -> Arrived:
        spec = self._registry.get(job.job_type)
        assert spec is not None, "claims ask for registered types only"
        return Arrived(job, spec.policy, time.monotonic(), lease_deadline)

    def _unfit(self, attempt: Attempt) -> Outcome | None:
        """The outcome of a job that must not start; None where it may."""
        if attempt.job.cancel_asked:
            return Cancelled(HowCancelled.NOT_STARTED)
        return self._poison.unfit(attempt) or self._unreadable(attempt)

    def _unreadable(self, attempt: Attempt) -> Outcome | None:
        """The outcome of a job whose payload cannot be decrypted; of any other it is plain from here on."""
        job = attempt.job
        try:
            job.payload = opened_payload(job.payload, job.job_type, attempt.policy)
        except (InvalidPayload, PayloadKeyMissing) as error:
            return self._policy.raised(attempt, error, None)
        return None
