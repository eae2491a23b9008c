"""Cancel jobs that run: ask for it on the row, and end them once their run has ended."""

import json
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.connection import Link
from service.db.session import fetch
from service.jobs.core.claimed_job import ClaimedJob, Lease
from service.jobs.core.fields import MOVED
from service.jobs.core.job import JobId
from service.jobs.core.outcomes import Cancelled
from service.jobs.store.fragments import (
    CANCEL_ASKED,
    ID_BY_PRIMARY_KEY,
    LEASE_HOLDS,
    TIMINGS,
    cancel_report,
    count_ends,
    free_permits,
    history,
    last_error,
    move,
)
from service.jobs.store.statement import Transition

ASK_CANCEL: Final = Transition(f"""
UPDATE finmind_jobs.jobs_live b SET cancel = {CANCEL_ASKED}
FROM unnest(:ids::bigint[]) AS r(id)
WHERE {ID_BY_PRIMARY_KEY} AND b.status = 'RUNNING' AND b.cancel IS NULL
RETURNING b.id, b.job_type
""")
"""From here on the job can only end CANCELLED: FINISH and REQUEUE leave it alone, and a claim that
rescues it does not run it. No index holds the column: the update is HOT."""


_MOVED: Final = move(
    "background_jobs",
    MOVED,
    {
        "finished_at": "ended_at",
        "attempts": "CASE how WHEN 'not_started' THEN attempts - 1 ELSE attempts END",
        "status": "'CANCELLED'",
        "last_error": f"CASE WHEN failure IS NULL THEN last_error ELSE {last_error('failure')} END",
        "result": "NULL",
        "errors": f"CASE WHEN failure IS NULL THEN errors ELSE {history('errors', 'failure')} END",
        "cancel": cancel_report(
            "cancel", ended_at="ended_at", how="how", seen_seconds="seen_seconds"
        ),
    },
)

END_CANCELLED: Final = Transition(f"""
WITH r AS (
  SELECT * FROM unnest(:ids::bigint[], :tokens::bigint[], :hows::text[], :seen_seconds::float8[],
    :failures::text[], :timings::smallint[]) AS r(id, token, how, seen_seconds, failure, timing)),
gone AS (
  DELETE FROM finmind_jobs.jobs_live b USING r WHERE {LEASE_HOLDS} AND b.cancel IS NOT NULL
  RETURNING b.*, r.how, r.seen_seconds, r.failure::jsonb AS failure, r.timing,
    clock_timestamp() AS ended_at),
kept AS (
  {_MOVED}),
{count_ends("gone", outcome="'CANCELLED'::text", finished_at="ended_at", timings=TIMINGS)},
{free_permits("gone")}
(SELECT id, token FROM r EXCEPT ALL SELECT id, lease_token FROM gone)
UNION ALL (SELECT 0, NULL FROM told LIMIT 1)
""")
"""Ends jobs whose cancel was asked for, whatever came of their runs, fenced by their tokens. Returns the
leases that were lost, and without a token one of the jobs that others wait for. The claim of one that did not start is not counted as an attempt."""


async def ask(
    session: AsyncSession, ids: Collection[JobId], *, asked_by: str | None, reason: str | None
) -> list[tuple[JobId, str]]:
    """Ask for the cancel of RUNNING jobs; the id and type of those for which nobody had done so before."""
    rows = await fetch(
        session, *ASK_CANCEL.bind(ids=sorted(ids), asked_by=asked_by, asked_reason=reason)
    )
    return [(JobId(row[0]), row[1]) for row in rows]


async def end(
    link: Link,
    ended: Sequence[tuple[ClaimedJob, Cancelled]],
    *,
    max_errors: int,
    told: Callable[[], None] | None = None,
) -> set[Lease]:
    """Record jobs that end CANCELLED; the leases that no longer held, or whose cancel nobody asked for.

    Calls `told` where other jobs wait for one of them.
    """
    ended = sorted(ended, key=lambda one: one[0].id)
    now = time.monotonic()
    rows = await link.fetch(
        *END_CANCELLED.bind(
            ids=[job.id for job, _ in ended],
            tokens=[job.lease_token for job, _ in ended],
            hows=[outcome.reason.value for _, outcome in ended],
            seen_seconds=[None if one.seen is None else now - one.seen for _, one in ended],
            failures=[_dump(outcome) for _, outcome in ended],
            timings=[job.timing for job, _ in ended],
            max_errors=max_errors,
        )
    )
    lost = {(row[0], row[1]) for row in rows if row[1] is not None}
    if len(lost) < len(rows) and told is not None:
        told()
    return lost


def _dump(outcome: Cancelled) -> Any:
    failure = outcome.failure
    return None if failure is None else json.dumps(failure.to_json(), ensure_ascii=False)
