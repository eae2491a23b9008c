"""Record how attempts ended: one fenced statement for jobs that end, one for jobs that go back."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from service.db.connection import Link
from service.jobs.core.claimed_job import ClaimedJob, Lease
from service.jobs.core.failures import Failure
from service.jobs.core.fields import MOVED
from service.jobs.core.fingerprint import cause_of
from service.jobs.core.job import JobId, JobStatus
from service.jobs.core.outcomes import Ending, Outcome, Requeueing
from service.jobs.store.fragments import (
    LEASE_HOLDS,
    TIMED,
    TIMINGS,
    count_ends,
    free_permits,
    held_permits,
    history,
    last_error,
    move,
)
from service.jobs.store.leases import lease_columns
from service.jobs.store.statement import Statement, Transition

_ERRORS: Final = history("errors", "failure - 'fingerprint'")
_MOVED: Final = move(
    "background_jobs",
    MOVED,
    {
        "finished_at": "ended_at",
        "attempts": "CASE WHEN failure ->> 'event' = 'lease_lost' THEN attempts - 1 ELSE attempts END",
        "status": "new_status",
        "last_error": f"CASE WHEN failure IS NULL THEN last_error ELSE {last_error('failure')} END",
        "result": "new_result",
        "progress": "CASE WHEN new_status <> 'SUCCESS' THEN progress END",
        "errors": f"CASE WHEN failure IS NULL THEN errors ELSE {_ERRORS} END",
        "fingerprint": "failure ->> 'fingerprint'",
    },
)


def _finish(*, frees: str = "") -> Transition:
    return Transition(f"""
WITH r AS (
  SELECT * FROM unnest(:ids::bigint[], :tokens::bigint[], :statuses::text[], :results::text[],
    :failures::text[], :timings::smallint[]) AS r(id, token, status, result, failure, timing)),
gone AS (
  DELETE FROM finmind_jobs.jobs_live b USING r
  WHERE {LEASE_HOLDS} AND b.cancel IS NULL
  RETURNING b.*, COALESCE(r.status, 'SUCCESS') AS new_status, r.result::jsonb AS new_result,
    r.failure::jsonb AS failure, r.timing, clock_timestamp() AS ended_at),
kept AS (
  {_MOVED}),
{count_ends("gone", outcome="new_status", finished_at="ended_at", timings=TIMINGS)}{frees}
(SELECT id, token FROM r EXCEPT ALL SELECT id, lease_token FROM gone)
UNION ALL (SELECT 0, NULL FROM told LIMIT 1)
""")


FINISH: Final = _finish()
"""Moves ended jobs out of the live partition, fenced by their tokens. Returns the leases that were
lost, and those of jobs whose cancel was asked for (`store.cancel`), and a row without a token if others
wait for one of the jobs, or a batch counts it: usually none. A job without a status succeeded. One that ends for its lost
leases was claimed but did not run: that claim is not counted as an attempt."""


FINISH_PERMITTED: Final = _finish(frees=f",\n{free_permits('gone')}")
"""The same for a batch in which jobs hold permits."""


_DUE_AFTER: Final = """CASE WHEN r.delay_seconds IS NULL THEN b.next_run_at
    ELSE clock_timestamp() + make_interval(secs => r.delay_seconds) END"""


def _requeue(
    *, given: str = "", given_as: str = "", was: str = "", joined: str = "", due: str = _DUE_AFTER,
    also: str = "", frees: str = "",
) -> Transition:  # fmt: skip
    return Transition(f"""
WITH r AS (
  SELECT * FROM unnest(:ids::bigint[], :tokens::bigint[], :delays::float8[], :refunds::smallint[],
    :failures::text[], :keeps_lost_leases::bool[], :timings::smallint[]{given})
    AS r(id, token, delay_seconds, refund, failure, keeps_lost_leases, timing{given_as})){was},
back AS (
UPDATE finmind_jobs.jobs_live b SET
  status = 'PENDING', attempts = b.attempts - r.refund,
  lost_leases = CASE WHEN r.keeps_lost_leases THEN b.lost_leases ELSE 0 END,
  next_run_at = {due},
  lease_until = NULL, worker_id = NULL, started_at = NULL,{also}
  last_error = CASE WHEN r.failure IS NULL THEN b.last_error
    ELSE {last_error("r.failure::jsonb")} END,
  errors = CASE WHEN r.failure IS NULL THEN b.errors ELSE {history("b.errors", "r.failure::jsonb")} END
FROM r{joined} WHERE {LEASE_HOLDS} AND b.cancel IS NULL
RETURNING b.id, r.token, b.queue, b.job_type, r.failure IS NOT NULL AS failed, r.timing),
ends AS (
  SELECT queue, job_type, 'RETRIED' AS outcome, count(*) AS jobs, {TIMINGS} AS timings
  FROM back WHERE failed GROUP BY 1, 2),
{TIMED}{frees}
SELECT id, token FROM r EXCEPT ALL SELECT id, token FROM back
""")


REQUEUE: Final = _requeue()
"""Puts jobs back to PENDING, fenced by their tokens; those that failed are counted. Returns the leases
that were lost, and those of jobs whose cancel was asked for. The token stays until the next claim:
SETTLED_BEFORE finds by it what was carried out."""


REQUEUE_PERMITTED: Final = _requeue(
    was=f",\n{held_permits('r', unless_cancelled=True)}",
    joined=" JOIN was ON was.id = r.id",
    also=" permits = NULL,",
    frees=f",\n{free_permits('was')}",
)
"""The same for a batch in which jobs hold permits. The join sees to it that they are read before the
update."""


_WAITS: Final = """waits AS MATERIALIZED (
  SELECT s.job_id, s.wait_until FROM was JOIN r ON r.id = was.id
  JOIN finmind_jobs.job_steps s ON s.job_id = was.id AND s.name = r.step
  WHERE s.finished_at IS NULL FOR UPDATE OF s)"""
"""Of steps whose event has not come: it may come while this statement waits for the job."""

REQUEUE_SUSPENDED: Final = _requeue(
    given=", :steps::text[]",
    given_as=", step",
    was=f",\n{held_permits('r', unless_cancelled=True)},\n{_WAITS}",
    joined=" JOIN was ON was.id = r.id LEFT JOIN waits ON waits.job_id = r.id",
    due=f"""CASE WHEN r.step IS NOT NULL THEN COALESCE(waits.wait_until, clock_timestamp())
    ELSE {_DUE_AFTER} END""",
    also=" permits = NULL,",
    frees=f",\n{free_permits('was')}",
)
"""The same for a batch in which jobs wait at a step: each is due when that is over, and at once where its
event has come. First the job is locked, then its step, as whoever sends an event does."""


SETTLED_BEFORE: Final = Statement("""
SELECT d.id, d.lease_token FROM unnest(:ids::bigint[], :tokens::bigint[]) AS r(id, token)
CROSS JOIN LATERAL (
  SELECT b.id, b.lease_token FROM finmind_jobs.background_jobs b
  WHERE b.id = r.id AND b.lease_token = r.token AND b.status <> 'RUNNING' LIMIT 1) d
""")
"""After an answer was lost: which of these were settled under these very tokens.

The limit makes it probe. `ID_BY_PRIMARY_KEY` would not do: over partitions, PostgreSQL 18 answers that by reading
a small one whole for each of the batch, whatever `enable_seqscan` says.
"""


async def finish(
    link: Link,
    ended: Sequence[tuple[ClaimedJob, Ending]],
    *,
    max_errors: int,
    told: Callable[[], None] | None = None,
) -> set[Lease]:
    """Record jobs that end; returns the leases that no longer held, and of jobs to be cancelled.

    Calls `told` where other jobs wait for one of them, or a batch counts it.
    """
    ended = sorted(ended, key=_by_id)
    statement = FINISH_PERMITTED if _hold_permits(ended) else FINISH
    rows = await link.fetch(
        *statement.bind(
            ids=[job.id for job, _ in ended],
            tokens=[job.lease_token for job, _ in ended],
            statuses=_unless_empty([_unless_success(outcome) for _, outcome in ended]),
            results=_unless_empty([outcome.result for _, outcome in ended]),
            failures=_unless_empty([_dump_end(job, outcome.failure) for job, outcome in ended]),
            timings=[job.timing for job, _ in ended],
            max_errors=max_errors,
        )
    )
    lost = {(row[0], row[1]) for row in rows if row[1] is not None}
    if len(lost) < len(rows) and told is not None:
        told()
    return lost


async def requeue(
    link: Link, returned: Sequence[tuple[ClaimedJob, Requeueing]], *, max_errors: int
) -> set[Lease]:
    """Put jobs back to PENDING; returns the leases that no longer held, and of jobs to be cancelled."""
    returned = sorted(returned, key=_by_id)
    statement = REQUEUE_PERMITTED if _hold_permits(returned) else REQUEUE
    more: dict[str, object] = {}
    if any(outcome.step is not None for _, outcome in returned):
        statement, more["steps"] = REQUEUE_SUSPENDED, [outcome.step for _, outcome in returned]
    rows = await link.fetch(
        *statement.bind(
            **more,
            ids=[job.id for job, _ in returned],
            tokens=[job.lease_token for job, _ in returned],
            delays=[outcome.delay_seconds for _, outcome in returned],
            refunds=[outcome.refund for _, outcome in returned],
            failures=[_dump(outcome.failure) for _, outcome in returned],
            keeps_lost_leases=[outcome.keeps_lost_leases for _, outcome in returned],
            timings=[job.timing for job, _ in returned],
            max_errors=max_errors,
        )
    )
    return {(row[0], row[1]) for row in rows}


async def settled_before(link: Link, leases: Iterable[Lease]) -> set[Lease]:
    """Which of these were settled, after the answer of an earlier try was lost."""
    rows = await link.fetch(*SETTLED_BEFORE.bind(**lease_columns(leases)))
    return {(row[0], row[1]) for row in rows}


def _by_id(settled: tuple[ClaimedJob, Outcome]) -> JobId:
    # Rows are locked in the order of the arrays. Statements that lock several of the same jobs all
    # do so in the order of ids: none waits for another in a circle.
    return settled[0].id


def _hold_permits(settled: Sequence[tuple[ClaimedJob, Outcome]]) -> bool:
    return any(job.permits is not None for job, _ in settled)


def _unless_success(outcome: Ending) -> str | None:
    return None if outcome.status is JobStatus.SUCCESS else outcome.status.value


def _dump(failure: Failure | None) -> str | None:
    return None if failure is None else json.dumps(failure.to_json(), ensure_ascii=False)


def _dump_end(job: ClaimedJob, failure: Failure | None) -> str | None:
    """The failure that a job dies of, with its fingerprint."""
    if failure is None:
        return None
    cause = cause_of(job.job_type, failure.type, failure.message, failure.traceback)
    told = failure.to_json() | {"fingerprint": cause.fingerprint}
    return json.dumps(told, ensure_ascii=False)


def _unless_empty(column: list[str | None]) -> list[str | None]:
    # Several arrays unnested together are filled up with nulls: nulls need not travel.
    return [] if column.count(None) == len(column) else column
