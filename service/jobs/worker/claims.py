"""Send the claims of a plan: which statement a step takes, and what is left out of it."""

from collections.abc import Callable, Sequence
from functools import partial

from service.db.connection import Link
from service.db.errors import REFUSED_ERRORS
from service.jobs import store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobId
from service.jobs.core.lane import LANE_START, KeysRequest, KeysWalk, LaneRequest
from service.jobs.flow.queue_settings import QueueSettings
from service.jobs.handlers.registry import Registry
from service.jobs.worker.claim_recovery import ClaimRecovery
from service.jobs.worker.plan.claim_plan import Step
from service.jobs.worker.refused_claims import RefusedClaims
from service.settings import Settings


class Claims:
    """Takes due jobs under a lease, by lanes or by keys; each claim can be looked for if its answer is lost."""

    def __init__(
        self,
        settings: Settings,
        *,
        link: Link,
        registry: Registry,
        queue_settings: QueueSettings,
        limits: Callable[[str], bool],
        recovery: ClaimRecovery,
        worker_id: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._link = link
        self._registry = registry
        self._queue_settings = queue_settings
        self._limits = limits
        """Whether jobs of a queue may come under a limit."""
        self._recovery = recovery
        self._worker_id = worker_id
        self._refused = RefusedClaims(
            link,
            lanes=self._of_lanes,
            by_keys=self._by_keys,
            one=self._one,
            max_errors=settings.max_error_entries,
        )

    async def take(
        self, step: Step, *, limit: int
    ) -> tuple[list[ClaimedJob], bool, KeysWalk | None]:
        """Up to `limit` jobs, whether there may be more in the same place, and how far it went by keys."""
        walk = None
        try:
            if step.keys is None:
                jobs = await self._of_lanes(step.requests, limit, orphans_alone=step.orphans_alone)
            else:
                jobs, walk = await self._by_keys(step.keys)
        except REFUSED_ERRORS:
            types = self._registry.job_types()
            if step.keys is None:
                jobs = await self._refused.narrow(step.requests, types, limit=limit)
            else:
                jobs, walk = await self._refused.narrow_keys(step.keys, types)
            return jobs, True, walk
        return jobs, len(jobs) >= limit, walk

    async def _one(self, request: LaneRequest, job_id: JobId) -> list[ClaimedJob]:
        if not await self._allowed([request]):
            return []
        with self._recovery.expected([request]):
            return await store.claim.take_one(
                self._link,
                job_id,
                lease_seconds=self._settings.lease_seconds,
                worker_id=self._worker_id(),
                max_errors=self._settings.max_error_entries,
            )

    async def _allowed(self, requests: Sequence[LaneRequest]) -> Sequence[LaneRequest]:
        """Those of queues that are not paused; time may have passed since they were planned."""
        await self._queue_settings.renew(self._link)
        if not self._queue_settings.paused:
            return requests
        paused = self._queue_settings.is_paused
        return [request for request in requests if not paused(request.lane.queue)]

    async def _of_lanes(
        self, requests: Sequence[LaneRequest], limit: int, *, orphans_alone: bool = False
    ) -> list[ClaimedJob]:
        requests = await self._allowed(requests)
        if not requests:
            return []
        take = partial(store.claim.take, orphans_alone=orphans_alone)
        # Where keys take turns, claims bring few jobs: `ADMIT` decides.
        by_keys = any(request.unkeyed for request in requests)
        if not (orphans_alone or by_keys) and any(self._limits(one.lane.queue) for one in requests):
            of_types = self._registry.limits_per_key()
            take = partial(store.claim_limited.take, type_limits=of_types)
        with self._recovery.expected(requests):
            return await take(
                self._link,
                requests,
                self._registry.job_types(),
                limit=limit,
                lease_seconds=self._settings.lease_seconds,
                worker_id=self._worker_id(),
                max_errors=self._settings.max_error_entries,
            )

    async def _by_keys(self, request: KeysRequest) -> tuple[list[ClaimedJob], KeysWalk]:
        lane = [LaneRequest(request.lane, LANE_START, request.limit)]
        if not await self._allowed(lane):
            return [], KeysWalk(request.after_key, whole=True)
        with self._recovery.expected((), keys=request):
            return await store.claim_by_keys.take(
                self._link,
                request,
                self._registry.job_types(),
                lease_seconds=self._settings.lease_seconds,
                worker_id=self._worker_id(),
                max_errors=self._settings.max_error_entries,
            )
