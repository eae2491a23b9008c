"""Change jobs by hand: retry, cancel, delete, change.

Each statement takes any number of jobs; one job is an array of one. Those of many jobs are first locked in
the order of their ids (`hold_all`), so that no two transactions wait for each other.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import fetch
from service.jobs.core.fields import RETRIED
from service.jobs.core.job import JobId, JobStatus
from service.jobs.core.lane import Lane
from service.jobs.store.fragments import (
    CANCEL_ASKED,
    COUNT,
    ID_BY_PRIMARY_KEY,
    LASTING_HOLDS,
    MANUAL_RETRY_ENTRY,
    NO_LEASE,
    NOT_LEASED,
    TOLD_DELETED,
    TOLD_RETRIED,
    cancel_report,
    free_permits,
    history,
    keep_ended,
    move,
    noted,
    readable,
)
from service.jobs.store.statement import Statement, Transition

_EDITED_RETRY_ENTRY: Final = (
    f"({MANUAL_RETRY_ENTRY} || CASE WHEN new_payload IS NULL THEN '{{}}'"
    " ELSE jsonb_build_object('payload_before', payload) END)"
)
_RETRIED: Final = move(
    "jobs_live",
    RETRIED,
    {
        "next_run_at": "COALESCE(:run_at::timestamptz, clock_timestamp())",
        "max_retries": "COALESCE(:max_retries::smallint, max_retries)",
        "payload": "COALESCE(new_payload, payload)",
        "concurrency_key": "NULLIF(COALESCE(new_key, concurrency_key), '')",
        "errors": history("errors", _EDITED_RETRY_ENTRY),
    },
)


RETRY_DEAD: Final = Transition(f"""
WITH gone AS (
  DELETE FROM finmind_jobs.jobs_dead b
  USING unnest(:ids::bigint[], :payloads::text[], :keys::text[]) AS r(id, payload, key)
  WHERE {ID_BY_PRIMARY_KEY}
  RETURNING b.*, r.payload::jsonb AS new_payload, r.key AS new_key),
counted AS ({COUNT.format(sign="-", source="gone")}),
{TOLD_RETRIED}
{_RETRIED}
RETURNING id, job_type, queue, priority
""")
"""A payload that is replaced stays in the entry of the history."""


_REPORT: Final = cancel_report(
    f"COALESCE(cancel, {CANCEL_ASKED})", ended_at="clock_timestamp()", how="'not_started'"
)
CANCEL: Final = Transition(f"""
WITH gone AS (
  DELETE FROM finmind_jobs.jobs_live b USING unnest(:ids::bigint[]) AS r(id)
  WHERE {ID_BY_PRIMARY_KEY} AND {NOT_LEASED}
  RETURNING b.*, {noted("b.errors", "cancelled")} AS history),
{keep_ended(NO_LEASE | {"status": "'CANCELLED'", "errors": "history", "cancel": _REPORT})},
{free_permits("gone")}
SELECT id, job_type FROM kept
""")
"""Of jobs that wait, and of those whose worker was lost: nobody runs them, or may record their end."""


DELETE: Final = Transition(f"""
WITH gone AS (
  DELETE FROM finmind_jobs.background_jobs WHERE id = ANY (:ids::bigint[]) AND status <> 'RUNNING'
  RETURNING id, queue, job_type, status, finished_at, has_children, batch_id),
counted AS ({COUNT.format(sign="-", source="gone")}),
{TOLD_DELETED}
SELECT id, job_type FROM gone
""")


_PAYLOAD_BEFORE: Final = (
    "CASE WHEN :payload::jsonb IS NULL THEN '{}'"
    " ELSE jsonb_build_object('payload_before', old.payload) END"
)
_DUE: Final = "COALESCE(old.held_due_at, old.next_run_at)"
_DUE_CHANGED: Final = f"""CASE WHEN :run_now::bool THEN clock_timestamp()
    WHEN :run_at::timestamptz IS NOT NULL THEN :run_at::timestamptz
    WHEN :queue::text IS NULL AND :priority::smallint IS NULL THEN {_DUE}
    ELSE greatest({_DUE}, clock_timestamp()) END"""
_STAYS_HELD: Final = f"""(old.held_for IN {LASTING_HOLDS} OR old.held_for IS NOT NULL AND NOT :run_now::bool
    AND COALESCE(:run_at::timestamptz::text, :queue::text, :priority::smallint::text,
      :concurrency_key::text) IS NULL)"""
CHANGE: Final = Transition(f"""
WITH old AS (
  SELECT b.* FROM unnest(:ids::bigint[]) WITH ORDINALITY AS r(id, position)
  JOIN finmind_jobs.jobs_live b ON {ID_BY_PRIMARY_KEY}
  WHERE status = 'PENDING' ORDER BY position FOR UPDATE OF b)
UPDATE finmind_jobs.jobs_live b SET
  next_run_at = CASE WHEN {_STAYS_HELD} THEN old.next_run_at ELSE {_DUE_CHANGED} END,
  held_due_at = CASE WHEN {_STAYS_HELD} THEN {_DUE_CHANGED} END,
  held_since = CASE WHEN {_STAYS_HELD} THEN old.held_since END,
  held_for = CASE WHEN {_STAYS_HELD} THEN old.held_for END,
  queue = COALESCE(:queue::text, old.queue), priority = COALESCE(:priority::smallint, old.priority),
  max_retries = COALESCE(:max_retries::smallint, old.max_retries),
  payload = COALESCE(:payload::jsonb, old.payload),
  concurrency_key = NULLIF(COALESCE(:concurrency_key::text, old.concurrency_key), ''),
  errors = {noted("b.errors", "changed", more=_PAYLOAD_BEFORE)}
FROM old WHERE b.id = old.id
RETURNING b.id, b.job_type, b.queue, b.priority
""")
"""A due job that comes into another lane goes to its end: workers have passed what is before that. A
payload that is replaced stays in the entry of the history, if there is one. What is held by a
limit asks for it anew where its due time, queue, priority or concurrency key changes; what waits for other jobs does so
all the same."""


_HELD: Final = (
    "status", "job_type", "queue", "priority", "attempts", "next_run_at", "created_at",
    "finished_at", "unique_key", "last_error",
)  # fmt: skip

HOLD: Final = Statement(f"""
SELECT {", ".join(map(readable, _HELD))}
FROM finmind_jobs.background_jobs WHERE id = :job_id FOR UPDATE
""")
"""What the audit log keeps of a job that is deleted: no payload and no result."""


def _hold_all(lock: str) -> Statement:
    return Statement(f"""
WITH held AS MATERIALIZED (
  SELECT id, status FROM finmind_jobs.background_jobs
  WHERE id = ANY (:ids::bigint[]) AND status = ANY (:statuses::text[]) ORDER BY id {lock})
SELECT b.id, held.status FROM finmind_jobs.background_jobs b LEFT JOIN held USING (id)
WHERE b.id = ANY (:ids::bigint[]) AND b.status = ANY (:statuses::text[])
""")


HOLD_ALL: Final = _hold_all("FOR UPDATE")
HOLD_FREE: Final = _hold_all("FOR UPDATE SKIP LOCKED")


PAYLOADS_OF: Final = Statement("""
SELECT id, payload::text FROM finmind_jobs.background_jobs WHERE id = ANY (:ids::bigint[])
""")


STATUS_OF: Final = Statement("SELECT status FROM finmind_jobs.background_jobs WHERE id = :job_id")


class Changed(NamedTuple):
    """A job that a statement changed."""

    id: JobId
    job_type: str
    lane: Lane


async def hold(session: AsyncSession, job_id: JobId) -> Mapping[str, Any] | None:
    """A job as it is, by column, which nobody changes before the transaction ends; None: no such job."""
    rows = await fetch(session, *HOLD.bind(job_id=job_id))
    return dict(zip(_HELD, rows[0], strict=True)) if rows else None


async def hold_all(
    session: AsyncSession, ids: Collection[JobId], statuses: Collection[JobStatus], *, wait: bool
) -> dict[JobId, JobStatus | None]:
    """Lock the jobs that have one of these statuses to the end of the transaction: the status of each.

    With `wait` others are waited for; without, a job that another transaction holds has None.
    """
    statement = HOLD_ALL if wait else HOLD_FREE
    rows = await fetch(session, *statement.bind(ids=sorted(ids), statuses=sorted(statuses)))
    return {JobId(row[0]): None if row[1] is None else JobStatus(row[1]) for row in rows}


async def retry_dead(
    session: AsyncSession,
    payloads: Mapping[JobId, str | None],
    *,
    keys: Mapping[JobId, str],
    by: str | None,
    max_errors: int,
    **edit: Any,
) -> list[Changed]:
    """Put DEAD_LETTER and FAILED jobs back to PENDING, due now; those that were there to be put back.

    `payloads` has the new payload of each job as JSON text; None: it keeps its own. `keys` has the
    concurrency keys of those that get another one with it (`key_after_edit`). `edit` has the new values
    of all, as `JobChange.retry_values` makes them.

    Raises:
        sqlalchemy.exc.IntegrityError: a `unique_key` is taken, or a row breaks a rule of the table.
    """
    ids = sorted(payloads)
    edited = any(text is not None for text in payloads.values())
    retry = RETRY_DEAD.bind(
        ids=ids,
        payloads=[payloads[job_id] for job_id in ids] if edited else [],
        keys=[keys.get(job_id) for job_id in ids] if keys else [],
        by=by,
        max_errors=max_errors,
        **edit,
    )
    return _changed(await fetch(session, *retry))


async def cancel(
    session: AsyncSession,
    ids: Collection[JobId],
    *,
    asked_by: str | None,
    reason: str | None,
    by: str | None = None,
    max_errors: int = 0,
) -> list[tuple[JobId, str]]:
    """Make jobs CANCELLED that are PENDING, or RUNNING under a lease that has ended; the id and type of each.

    `asked_by` and `reason` are for the report that each keeps. With `by` the history says so as well, in
    one of its last `max_errors` entries.
    """
    values = {"by": by, "max_errors": max_errors, "message": "cancelled with others"}
    values |= {"asked_by": asked_by, "asked_reason": reason}
    rows = await fetch(session, *CANCEL.bind(ids=sorted(ids), **values))
    return [(JobId(row[0]), row[1]) for row in rows]


async def delete(session: AsyncSession, ids: Collection[JobId]) -> list[tuple[JobId, str]]:
    """Delete jobs that are not RUNNING; the id and type of those that were there."""
    return [(JobId(row[0]), row[1]) for row in await fetch(session, *DELETE.bind(ids=sorted(ids)))]


async def change(
    session: AsyncSession,
    ids: Collection[JobId],
    *,
    run_now: bool = False,
    by: str | None = None,
    max_errors: int = 0,
    message: str | None = None,
    concurrency_key: str | None = None,
    **values: Any,
) -> list[Changed]:
    """Change PENDING jobs; those that were PENDING.

    `values` are those of `JobChange.encoded`; with `run_now` they are due at once. With `by` the history
    of each says so, by `message`. `concurrency_key` is as `key_after_edit` says it.
    """
    values |= {
        "concurrency_key": concurrency_key,
        "run_now": run_now,
        "by": by,
        "max_errors": max_errors,
        "message": message,
    }
    rows = await fetch(session, *CHANGE.bind(ids=sorted(ids), **values))
    return _changed(rows)


async def payloads_of(session: AsyncSession, ids: Collection[JobId]) -> dict[JobId, str]:
    """The payloads of jobs, as JSON text."""
    rows = await fetch(session, *PAYLOADS_OF.bind(ids=sorted(ids)))
    return {JobId(row[0]): row[1] for row in rows}


async def status_of(session: AsyncSession, job_id: JobId) -> JobStatus | None:
    """A job's status; None where there is no such job."""
    rows = await fetch(session, *STATUS_OF.bind(job_id=job_id))
    return JobStatus(rows[0][0]) if rows else None


def _changed(rows: Sequence[Any]) -> list[Changed]:
    return [Changed(JobId(row[0]), row[1], Lane(row[2], row[3])) for row in rows]
