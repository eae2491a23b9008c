"""Every query on `operations`. Nothing here commits: the transaction is the caller's."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.json_values import read_json
from service.db.session import fetch
from service.jobs.actions.many import Skipped
from service.jobs.core.bulk_action import BulkAction
from service.jobs.core.job import JobId, JobStatus
from service.jobs.store.statement import Statement
from service.operations.model import Canary, Operation, OperationId, OperationState

MAX_SKIPS: Final = 1000
"""Skipped jobs that are kept by name, of one operation."""

# The JSON travels as text: SQLAlchemy and asyncpg encode jsonb each in its own way.
_COLUMNS: Final = """o.id, o.action, o.parameters::text AS parameters, o.filter::text AS filter,
  o.note, o.job_id, j.status AS job_status, j.attempts, j.last_error AS job_error, o.started_at, o.finished_at,
  o.before_id, o.expected, o.expected_exact, o.changed, o.skipped::text AS skipped, o.rate,
  o.canary::text AS canary, o.canary_ids, o.canary_until, o.canary_passed, o.actor, o.reason,
  CASE WHEN o.state = 'running' AND (j.status IS NULL OR j.status NOT IN ('PENDING', 'RUNNING'))
    THEN 'failed' ELSE o.state END AS state"""
_FROM: Final = """finmind_jobs.operations o LEFT JOIN LATERAL (
  SELECT b.status, b.attempts, b.last_error FROM finmind_jobs.background_jobs b
  WHERE o.state = 'running' AND b.id = o.job_id LIMIT 1) AS j ON true"""

_INSERT: Final = Statement("""
INSERT INTO finmind_jobs.operations (action, parameters, filter, before_id, expected, expected_exact,
  rate, canary, actor, reason, idempotency_key, request_hash)
VALUES (:action, :parameters::text::jsonb, :filter::text::jsonb, :before_id, :expected,
  :expected_exact, :rate, :canary::text::jsonb, :actor, :reason, :idempotency_key, :request_hash)
RETURNING id""")
_WITH_KEY: Final = Statement("""
SELECT id, request_hash FROM finmind_jobs.operations
WHERE actor = :actor AND idempotency_key = :key""")
_FIND: Final = Statement(f"SELECT {_COLUMNS} FROM {_FROM} WHERE o.id = :id")
_LOCK: Final = Statement(f"SELECT {_COLUMNS} FROM {_FROM} WHERE o.id = :id FOR UPDATE OF o")
_PAGE: Final = Statement(f"""
SELECT {_COLUMNS} FROM {_FROM} WHERE o.id < :before
AND (NOT :unfinished::bool OR o.finished_at IS NULL) ORDER BY o.id DESC LIMIT :limit""")
_COUNT_RUNNING: Final = Statement(f"""
SELECT count(*) FROM {_FROM} WHERE o.finished_at IS NULL AND j.status IN ('PENDING', 'RUNNING')""")
_LOCK_STARTS: Final = Statement(
    "SELECT pg_advisory_xact_lock('finmind_jobs.operations'::regclass::oid::bigint)"
)
_RUN_BY: Final = Statement("""
UPDATE finmind_jobs.operations SET job_id = :job_id, state = 'running', note = NULL WHERE id = :id""")
_SET_STATE: Final = Statement("""
UPDATE finmind_jobs.operations SET state = :state, note = :note,
  finished_at = CASE WHEN :finished::bool THEN clock_timestamp() END WHERE id = :id""")
_ADVANCE: Final = Statement("""
UPDATE finmind_jobs.operations SET before_id = :before_id, changed = changed + :changed,
  skipped = :skipped::text::jsonb, canary_ids = canary_ids || :canary_ids::bigint[] WHERE id = :id""")
_NOTE_SKIPS: Final = Statement("""
INSERT INTO finmind_jobs.operation_skips (operation_id, job_id, reason, detail)
SELECT :id, s.* FROM unnest(:job_ids::bigint[], :reasons::text[], :details::text[]) AS s
LIMIT greatest(0, :kept::bigint
  - (SELECT count(*) FROM finmind_jobs.operation_skips WHERE operation_id = :id))
ON CONFLICT DO NOTHING""")
_SKIPS: Final = Statement("""
SELECT job_id, reason, detail FROM finmind_jobs.operation_skips WHERE operation_id = :id
ORDER BY job_id DESC LIMIT :limit""")
_AWAIT_CANARY: Final = Statement("""
UPDATE finmind_jobs.operations SET canary_until = clock_timestamp() + make_interval(secs => :seconds)
WHERE id = :id""")
_RELEASE_CANARY: Final = Statement("""
UPDATE finmind_jobs.operations SET canary_until = NULL, canary_passed = true WHERE id = :id""")
_FATES: Final = Statement("""
SELECT count(*) FILTER (WHERE b.status IN ('DEAD_LETTER', 'FAILED')
    OR b.status IN ('PENDING', 'RUNNING') AND b.attempts > (b.status = 'RUNNING')::int) AS failed,
  count(*) FILTER (WHERE b.status IN ('PENDING', 'RUNNING')) AS undecided,
  clock_timestamp() >= (SELECT canary_until FROM finmind_jobs.operations WHERE id = :id) AS over
FROM finmind_jobs.background_jobs b WHERE b.id = ANY (:ids::bigint[])""")


async def insert(session: AsyncSession, values: Mapping[str, Any]) -> OperationId:
    """A new operation that no job runs yet."""
    encoded = dict(values) | {
        name: None if values[name] is None else json.dumps(values[name], ensure_ascii=False)
        for name in ("parameters", "filter", "canary")
    }
    return OperationId((await fetch(session, *_INSERT.bind(**encoded)))[0][0])


async def with_key(session: AsyncSession, actor: str, key: str) -> tuple[OperationId, bytes] | None:
    """The operation that a request with this Idempotency-Key started, and the hash of that request."""
    rows = await fetch(session, *_WITH_KEY.bind(actor=actor, key=key))
    return (OperationId(rows[0][0]), bytes(rows[0][1])) if rows else None


async def find(
    session: AsyncSession, operation_id: OperationId, *, lock: bool = False
) -> Operation | None:
    """One operation; with `lock` its row stays locked to the end of the transaction."""
    statement = _LOCK if lock else _FIND
    rows = await fetch(session, *statement.bind(id=operation_id))
    return _operation(rows[0]) if rows else None


async def page(
    session: AsyncSession, *, limit: int, before: int, unfinished: bool
) -> list[Operation]:
    """Operations below the id `before`, newest first."""
    rows = await fetch(session, *_PAGE.bind(limit=limit, before=before, unfinished=unfinished))
    return [_operation(row) for row in rows]


async def lock_starts(session: AsyncSession) -> None:
    """Let no other transaction start or resume an operation before this one ends."""
    await fetch(session, *_LOCK_STARTS.bind())


async def count_running(session: AsyncSession) -> int:
    """How many operations are running; those whose job is dead are not."""
    count: int = (await fetch(session, *_COUNT_RUNNING.bind()))[0][0]
    return count


async def run_by(session: AsyncSession, operation_id: OperationId, job_id: JobId) -> None:
    """Let this job carry the operation out, and no other."""
    await fetch(session, *_RUN_BY.bind(id=operation_id, job_id=job_id))


async def set_state(
    session: AsyncSession,
    operation_id: OperationId,
    state: OperationState,
    *,
    note: str | None = None,
    finished: bool = False,
) -> None:
    """Put the operation into another state."""
    statement = _SET_STATE.bind(id=operation_id, state=state.value, note=note, finished=finished)
    await fetch(session, *statement)


async def advance(
    session: AsyncSession,
    operation: Operation,
    *,
    before_id: int,
    changed: int,
    skipped: Sequence[Skipped],
    canary_ids: Sequence[JobId],
) -> None:
    """Note what one chunk did, in the transaction of the chunk."""
    counts = dict(operation.skipped)
    for one in skipped:
        counts[one.reason] = counts.get(one.reason, 0) + 1
    await fetch(
        session,
        *_ADVANCE.bind(
            id=operation.id,
            before_id=before_id,
            changed=changed,
            skipped=json.dumps(counts),
            canary_ids=list(canary_ids),
        ),
    )
    if skipped and operation.skipped_total < MAX_SKIPS:
        await fetch(
            session,
            *_NOTE_SKIPS.bind(
                id=operation.id,
                job_ids=[one.job_id for one in skipped],
                reasons=[one.reason for one in skipped],
                details=[one.detail.replace("\0", "�") for one in skipped],
                kept=MAX_SKIPS,
            ),
        )


async def skips(session: AsyncSession, operation_id: OperationId) -> list[Skipped]:
    """The first jobs that the operation skipped, up to `MAX_SKIPS`, newest first."""
    rows = await fetch(session, *_SKIPS.bind(id=operation_id, limit=MAX_SKIPS))
    return [Skipped(JobId(row[0]), row[1], row[2]) for row in rows]


async def await_canary(session: AsyncSession, operation: Operation, canary: Canary) -> None:
    """From now on the fate of the canary is waited for."""
    await fetch(session, *_AWAIT_CANARY.bind(id=operation.id, seconds=canary.wait_seconds))


async def release_canary(session: AsyncSession, operation_id: OperationId) -> None:
    """The canary is decided: all others follow."""
    await fetch(session, *_RELEASE_CANARY.bind(id=operation_id))


async def fates(session: AsyncSession, operation: Operation) -> tuple[int, int, bool]:
    """Of the canary: how many failed again, how many may still end, and whether the time is over."""
    statement = _FATES.bind(id=operation.id, ids=list(operation.canary_ids))
    failed, undecided, over = (await fetch(session, *statement))[0]
    return failed, undecided, over


def _operation(row: Any) -> Operation:
    canary = None if row.canary is None else Canary(**read_json(row.canary))
    note = row.note
    if row.state == "failed":
        status = "is gone" if row.job_status is None else f"is {row.job_status}"
        note = f"job {row.job_id}, which carried it out, {status}" + (
            f": {row.job_error}" if row.job_error else ""
        )
    elif row.job_status == JobStatus.PENDING and row.attempts and row.job_error:
        note = f"an attempt of job {row.job_id}, which carries it out, failed: {row.job_error}"
    return Operation(
        id=OperationId(row.id),
        action=BulkAction.of(row.action, read_json(row.parameters)),
        filter=read_json(row.filter),
        state=OperationState(row.state),
        note=note,
        job_id=None if row.job_id is None else JobId(row.job_id),
        job_status=None if row.job_status is None else JobStatus(row.job_status),
        started_at=row.started_at,
        finished_at=row.finished_at,
        before_id=row.before_id,
        expected=row.expected,
        expected_exact=row.expected_exact,
        changed=row.changed,
        skipped=read_json(row.skipped),
        rate=row.rate,
        canary=canary,
        canary_ids=tuple(map(JobId, row.canary_ids)),
        canary_until=row.canary_until,
        canary_passed=row.canary_passed,
        actor=row.actor,
        reason=row.reason,
    )
