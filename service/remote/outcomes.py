"""Record what workers report of their jobs: by the policies and the statements of every worker."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from service.auth.principal import KeyLimits
from service.db.connection import Link
from service.errors import Unavailable
from service.jobs import store
from service.jobs.core.attempt import Attempt
from service.jobs.core.claimed_job import Lease
from service.jobs.core.histogram import timing_of
from service.jobs.core.job import JobStatus
from service.jobs.core.outcome_policy import OutcomePolicy
from service.jobs.core.outcomes import Outcome
from service.jobs.store.leased_jobs import LeasedJob
from service.jobs.worker.settler import Settler
from service.observability.metrics import REMOTE_ANSWERS, observe_run
from service.remote.model import Recorded
from service.remote.policies import policy_of
from service.settings import Settings

Decide: TypeAlias = Callable[[OutcomePolicy, Attempt], Outcome]
"""What an attempt comes to, by the policies of every worker."""

LEASE_LOST: Final = Recorded("lease_lost")


class Outcomes:
    """Hands outcomes to the settler, and tells each caller what was recorded."""

    def __init__(self, settings: Settings, *, link: Link, settler: Settler) -> None:
        self._settings = settings
        self._link = link
        self._settler = settler
        self.on_settled: Callable[[Lease], None] | None = None
        """Called when a run has ended: nobody needs to look after it any more."""
        self._waiting: dict[Lease, asyncio.Future[Outcome | None]] = {}
        """By lease: what is on its way to the database, whoever waits for it."""
        settler.answer = self._answered

    async def record(
        self,
        decisions: Mapping[Lease, Decide],
        *,
        limits: KeyLimits | None,
        deadline: float,
        call: str,
    ) -> dict[Lease, Recorded]:
        """Record outcomes; what became of each.

        Args:
            decisions: by lease, what is reported.
            limits: of the caller's key: other jobs than these it does not hold.
            deadline: by when, on the clock of the event loop.
            call: what the outcomes are counted under.

        Raises:
            Unavailable: they were not recorded in time. Those that were sent may be still: to report them
                again is safe.
        """
        if self._settler.backlog_full:
            raise Unavailable(
                "Too many outcomes wait for the database: report these again", retry_after_seconds=1
            )
        async with asyncio.timeout_at(deadline):
            new = [lease for lease in decisions if lease not in self._waiting]
            found = await store.leased_jobs.running(self._link, new)
        for lease, leased in found.items():
            if lease not in self._waiting and may_have(
                limits, leased.job.job_type, leased.job.queue
            ):
                self._settle(leased, decisions[lease])
        answers = await self._answers(decisions, deadline)
        missing = decisions.keys() - answers.keys()
        if missing:
            async with asyncio.timeout_at(deadline):
                answers |= await self._settled_before(missing, limits)
        told = {lease: answers.get(lease, LEASE_LOST) for lease in decisions}
        for one in told.values():
            REMOTE_ANSWERS.labels(call, one.answer).inc()
        return told

    def attempt_of(self, leased: LeasedJob) -> Attempt:
        """The attempt that a worker makes under a lease."""
        policy, seen = policy_of(leased.job.job_type, leased.policy), leased.cancel_seen_seconds
        now = time.monotonic()
        return Attempt(
            leased.job,
            policy,
            now - leased.running_seconds,
            cancel_seen=None if seen is None else now - seen,
        )

    def policy_for(self, worker: str) -> OutcomePolicy:
        """What the ends of this worker's attempts mean."""
        return OutcomePolicy(self._settings, worker_name=worker)

    def _settle(self, leased: LeasedJob, decide: Decide) -> None:
        attempt, job = self.attempt_of(leased), leased.job
        outcome = decide(self.policy_for(leased.worker), attempt)
        job.timing = timing_of(job.late_seconds, leased.running_seconds)
        observe_run(job.job_type, leased.running_seconds)
        self._waiting[job.lease] = asyncio.get_running_loop().create_future()
        self._settler.settle(attempt, outcome)

    async def _answers(self, leases: Iterable[Lease], deadline: float) -> dict[Lease, Recorded]:
        waiting = {lease: self._waiting[lease] for lease in leases if lease in self._waiting}
        if not waiting:
            return {}
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        _, late = await asyncio.wait(waiting.values(), timeout=left)
        if late:
            raise Unavailable(
                f"{len(late)} outcomes could not be recorded in time: report them again, which is safe",
                retry_after_seconds=1,
            )
        outcomes = {lease: one.result() for lease, one in waiting.items()}
        return {
            lease: Recorded("recorded", outcome.status)
            for lease, outcome in outcomes.items()
            if outcome is not None
        }

    async def _settled_before(
        self, leases: Iterable[Lease], limits: KeyLimits | None
    ) -> dict[Lease, Recorded]:
        settled = await store.leased_jobs.settled(self._link, list(leases))
        return {
            lease: Recorded("repeated", JobStatus(one.status))
            for lease, one in settled.items()
            if may_have(limits, one.job_type, one.queue)
        }

    def _answered(self, attempt: Attempt, outcome: Outcome | None) -> None:
        if self.on_settled is not None:
            self.on_settled(attempt.job.lease)
        waiting = self._waiting.pop(attempt.job.lease, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)


def may_have(limits: KeyLimits | None, job_type: str, queue: str) -> bool:
    """Whether a key with these limits may hold such a job."""
    return limits is None or limits.covers(job_type=job_type, queue=queue)
