"""Claims that PostgreSQL refuses for a value in some row: narrowed to that row, which is ended."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS, REFUSED_ERRORS
from service.jobs import store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobId
from service.jobs.core.lane import LANE_START, KeysRequest, KeysWalk, LaneRequest
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error, record_event

MAX_ROWS: Final = 100
"""Jobs of one lane that are claimed one by one before the next look at it."""

_log = get_logger(__name__)

ClaimLanes = Callable[[list[LaneRequest], int], Awaitable[list[ClaimedJob]]]
ClaimOne = Callable[[LaneRequest, JobId], Awaitable[list[ClaimedJob]]]
ClaimByKeys = Callable[[KeysRequest], Awaitable[tuple[list[ClaimedJob], KeysWalk]]]


class RefusedClaims:
    """Claims what can be claimed where the claim of everything together is refused.

    A row that the table's checks should have kept out, such as one whose attempts cannot be counted
    any further, must not keep all the others from running: the claim is asked lane by lane, and in
    the lane that is refused job by job. The guilty job becomes FAILED, with what PostgreSQL said.
    """

    def __init__(
        self,
        link: Link,
        *,
        lanes: ClaimLanes,
        by_keys: ClaimByKeys,
        one: ClaimOne,
        max_errors: int,
    ) -> None:
        self._link = link
        self._claim_lanes = lanes
        self._claim_by_keys = by_keys
        self._claim_one = one
        self._max_errors = max_errors

    async def narrow(
        self, requests: Sequence[LaneRequest], job_types: list[str], *, limit: int
    ) -> list[ClaimedJob]:
        """Up to `limit` jobs of these lanes, in the order given.

        Raises:
            DATABASE_ERRORS: the database fails otherwise.
        """
        record_database_error("claim_refused")
        claimed: list[ClaimedJob] = []
        for request in requests:
            left = limit - len(claimed)
            if left <= 0:
                break
            try:
                claimed += await self._of_one_lane(request, job_types, limit=left)
            except DATABASE_ERRORS:
                if not claimed:
                    raise
                break  # what was claimed before is to be run
        return claimed

    async def narrow_keys(
        self, request: KeysRequest, job_types: list[str]
    ) -> tuple[list[ClaimedJob], KeysWalk]:
        """Jobs of the keys of a lane, one at a time, and how far it went.

        Raises:
            DATABASE_ERRORS: the database fails otherwise.
        """
        record_database_error("claim_refused")
        claimed: list[ClaimedJob] = []
        walk = KeysWalk(request.after_key, whole=False)
        for _ in range(min(request.limit, MAX_ROWS)):
            one = request._replace(after_key=walk.last_key, limit=1)
            try:
                jobs, walk = await self._of_next_key(one, job_types)
            except DATABASE_ERRORS:
                if not claimed:
                    raise
                break  # what was claimed before is to be run
            claimed += jobs
            if walk.whole:
                break
        return claimed, walk

    async def _of_next_key(
        self, request: KeysRequest, job_types: list[str]
    ) -> tuple[list[ClaimedJob], KeysWalk]:
        """The first job of the next key that has one; if it is refused it is ended, and the key is next again."""
        try:
            return await self._claim_by_keys(request)
        except REFUSED_ERRORS as refused:
            stays = KeysWalk(request.after_key, whole=False)
            found = await store.claim_by_keys.first(self._link, request, job_types)
            if found is None:
                raise
            job_id, job_type = found
            try:
                lane = LaneRequest(request.lane, LANE_START, 1)
                return await self._claim_one(lane, job_id), stays
            except REFUSED_ERRORS:
                await self._fail(job_id, job_type, refused)
                return [], stays

    async def _of_one_lane(
        self, request: LaneRequest, job_types: list[str], *, limit: int
    ) -> list[ClaimedJob]:
        try:
            return await self._claim_lanes([request], limit)
        except REFUSED_ERRORS:
            return await self._one_by_one(request, job_types, limit=limit)

    async def _one_by_one(
        self, request: LaneRequest, job_types: list[str], *, limit: int
    ) -> list[ClaimedJob]:
        claimed: list[ClaimedJob] = []
        wanted = min(request.limit, limit)
        for job_id, job_type in await store.claim.due_jobs(
            self._link, request, job_types, limit=MAX_ROWS
        ):
            if len(claimed) >= wanted:
                break
            try:
                claimed += await self._claim_one(request, job_id)
            except REFUSED_ERRORS as error:
                await self._fail(job_id, job_type, error)
            except DATABASE_ERRORS:
                if not claimed:
                    raise
                break
        return claimed

    async def _fail(self, job_id: JobId, job_type: str, error: Exception) -> None:
        reason = f"PostgreSQL refuses to claim this job: {error}"[:500]
        try:
            failed = await store.claim.fail_refused(
                self._link, job_id, reason, max_errors=self._max_errors
            )
        except REFUSED_ERRORS as worse:
            _log.error("job_cannot_be_ended", job_id=job_id, job_type=job_type, detail=str(worse))
            return
        if failed:
            record_event("failed", job_type, "refused")
            _log.error("job_refused", job_id=job_id, job_type=job_type, detail=str(error)[:200])
