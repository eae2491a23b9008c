"""List jobs, a page at a time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs.core.filters import JobFilters
from service.jobs.core.job import LIVE, MAX_ID, JobId, JobStatus
from service.jobs.read.sealed_fields import check_searchable
from service.jobs.store import listing
from service.jobs.store.listing import ORDER_SLACK, slackened
from service.jobs.store.listing_index import is_driven, is_scattered

FIRST_STEP: Final = 250
LARGEST_STEP: Final = 16_000
STEP_GROWTH: Final = 4
"""Rows looked at by the first step of a filter that no index serves; later ones grow."""

JUMP_AFTER: Final = FIRST_STEP
"""Rows looked at before the creation times of a filter are trusted to say where to look."""


SCATTERED_CAP: Final = 2_000
"""Rows that a count looks at where each of them must be read from another page of the table."""


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A job as a list shows it: without payload, result and history."""

    id: JobId
    job_type: str
    queue: str
    status: JobStatus
    priority: int
    attempts: int
    max_retries: int | None
    next_run_at: datetime
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    unique_key: str | None
    last_error: str | None
    concurrency_key: str | None
    held_for: str | None
    batch_id: int | None


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page, newest first. `next_before_id` is where the next one starts; None: no more."""

    jobs: list[JobSummary]
    next_before_id: JobId | None
    total: int
    total_exact: bool
    """Whether `total` is all there is; if not, there are at least so many."""
    looked: int
    """Rows looked at, matching or not."""
    complete: bool
    """False: `scan_seconds` were over before the page was full, and older jobs may match."""


async def list_jobs(
    session: AsyncSession,
    filters: JobFilters,
    *,
    limit: int,
    before_id: JobId | None = None,
    cap: int = 10_000,
    scan_seconds: float = 2.0,
) -> JobPage:
    """One page of the jobs that match, newest (highest id) first.

    Pages are keyset pages: a job that stays what it is appears on exactly one of them, however
    many are added meanwhile.

    Args:
        session: read in its transaction, the rest of which is planned by the order of indexes;
            `bound_queries` bounds each statement.
        filters: which jobs.
        limit: limit on the jobs of the page.
        before_id: only jobs below this id: `next_before_id` of the page before.
        cap: limit on the rows that a count looks at.
        scan_seconds: how long to look for matches that are far apart. When it is over the page is
            returned as it stands, shorter than `limit`, and the next one goes on from there.

    Raises:
        InvalidInput: a field of the payload is encrypted in the jobs that are asked for.
    """
    await check_searchable(session, filters)
    await listing.plan_by_index(session)
    finding = await _find(
        session, filters, limit=limit, before_id=before_id, scan_seconds=scan_seconds
    )
    found, next_before_id = finding.jobs, finding.next_before_id
    total, exact = await _count(session, filters, cap=cap)
    if before_id is None and next_before_id is None:
        # This page is all there is: no count can know better.
        total, exact = len(found), True
    elif total <= len(found) == limit and next_before_id is not None:
        # Rows that the kept counts were never told of: put in by hand.
        total, exact = len(found) + 1, False
    return JobPage(
        found,
        next_before_id,
        max(total, len(found)),
        exact,
        looked=finding.looked,
        complete=finding.complete,
    )


async def count_newer(
    session: AsyncSession, filters: JobFilters, than_id: JobId, *, cap: int
) -> tuple[int, bool]:
    """How many of the newest `cap` jobs above `than_id` match; false: there were more to look at."""
    await listing.plan_by_index(session)
    matching, looked = await listing.count_newest(session, filters, scan=cap + 1, above=than_id)
    return min(matching, cap), looked <= cap


async def count_by_status(
    session: AsyncSession, filters: JobFilters, *, cap: int
) -> dict[JobStatus, tuple[int, bool]] | None:
    """How many jobs of each status match, whatever status `filters` ask for; false: at least so many.

    None where other filters than status, type and queue are set: only those are counted as jobs end.
    """
    if not filters.active() <= listing.KEPT:
        return None
    counts, live = await listing.count_by_status(session, filters, scan=cap + 1)
    return {
        status: (max(0, counts.get(status, 0)), status not in LIVE or live <= cap)
        for status in JobStatus
    }


@dataclass(frozen=True, slots=True)
class _Found:
    jobs: list[JobSummary]
    next_before_id: JobId | None
    looked: int
    complete: bool = True


async def _find(
    session: AsyncSession,
    filters: JobFilters,
    *,
    limit: int,
    before_id: JobId | None,
    scan_seconds: float,
) -> _Found:
    scan = limit + 1 if is_driven(filters) else max(FIRST_STEP, limit + 1)
    before, above = MAX_ID if before_id is None else int(before_id), -1
    began = time.monotonic()
    found: list[JobSummary] = []
    looked, jumped = 0, False
    while True:
        step = await listing.look(
            session,
            filters,
            before=before,
            above=above,
            scan=scan,
            want=limit + 1 - len(found),
        )
        found += summaries(step.rows)
        looked += step.looked
        if len(found) > limit:
            return _Found(found[:limit], found[limit - 1].id, looked)
        if step.looked < scan:
            return _Found(found, None, looked)
        before = step.lowest
        took = time.monotonic() - began
        # No step is begun that would end late, as fast as they have been until now.
        in_time = int(looked * (scan_seconds - took) / took)
        if in_time < FIRST_STEP:
            return _Found(found, JobId(before), looked, complete=False)
        if looked >= JUMP_AFTER and not jumped:
            before, above = await _narrow(session, filters, before=before, above=above)
            jumped = True
        scan = min(scan * STEP_GROWTH, in_time, LARGEST_STEP)


async def _narrow(
    session: AsyncSession, filters: JobFilters, *, before: int, above: int
) -> tuple[int, int]:
    """The same bounds, less the ids that were given too late or too early to match."""
    if filters.created_before is not None:
        moment = slackened(filters.created_before, ORDER_SLACK)
        before = min(before, await listing.first_id_from(session, moment))
    if filters.created_after is not None:
        moment = slackened(filters.created_after, -ORDER_SLACK)
        above = max(above, await listing.first_id_from(session, moment) - 1)
    return before, above


async def _count(session: AsyncSession, filters: JobFilters, *, cap: int) -> tuple[int, bool]:
    kept = 0
    counted = filters
    if filters.active() <= listing.KEPT:
        kept = max(0, await listing.kept_count(session, filters))
        wanted = LIVE if filters.statuses is None else LIVE & frozenset(filters.statuses)
        if not wanted:
            return kept, True
        counted = JobFilters(statuses=wanted, job_type=filters.job_type, queue=filters.queue)
    if is_scattered(counted):
        cap = min(cap, SCATTERED_CAP)
    matching, looked = await listing.count_newest(session, counted, scan=cap + 1)
    return kept + min(matching, cap), looked <= cap


def summaries(rows: Sequence[Row[Any]]) -> list[JobSummary]:
    """Rows of `LISTED` columns as a list shows them."""
    return [
        JobSummary(
            id=JobId(row.id),
            job_type=row.job_type,
            queue=row.queue,
            status=JobStatus(row.status),
            priority=row.priority,
            attempts=row.attempts,
            max_retries=row.max_retries,
            next_run_at=row.next_run_at,
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            unique_key=row.unique_key,
            last_error=row.last_error,
            concurrency_key=row.concurrency_key,
            held_for=row.held_for,
            batch_id=row.batch_id,
        )
        for row in rows
    ]
