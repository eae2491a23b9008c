"""Jobs whose unique keys are held: change the holders, read them, compare requests with them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs.core.encoded_jobs import EncodedJobs
from service.jobs.core.job import JobId, JobStatus
from service.jobs.store.enqueue import Fetch
from service.jobs.store.fragments import LASTING_HOLDS
from service.jobs.store.statement import Statement, Transition

_DUE: Final = "COALESCE(:run_at::timestamptz, clock_timestamp() + make_interval(secs => :delay_seconds::float8))"


_HOLDER: Final = "b.unique_key = :unique_key"


def _change(assignments: str, *, due: str, which: str = _HOLDER) -> Transition:
    """Change the PENDING job of this type that has the key, and make it due at `due`."""
    held = f"b.held_for IN {LASTING_HOLDS}"
    return Transition(f"""
UPDATE finmind_jobs.jobs_live b SET
  next_run_at = CASE WHEN {held} THEN b.next_run_at ELSE {due} END,
  held_due_at = CASE WHEN {held} THEN {due} END,
  held_since = CASE WHEN {held} THEN b.held_since END,
  held_for = CASE WHEN {held} THEN b.held_for END{assignments}
WHERE {which} AND b.status = 'PENDING' AND b.job_type = :job_type
RETURNING b.id, b.created_at, COALESCE(b.held_due_at, b.next_run_at)
""")


_REPLACED: Final = """,
  payload = :payload::text::jsonb, queue = :queue, priority = :priority, max_retries = :max_retries::smallint,
  timeout_seconds = :timeout_seconds::float8, backoff = :backoff::text::jsonb,
  concurrency_key = :concurrency_key::text, unique_until_start = :unique_until_start::text,
  callback = COALESCE(:callback::text::jsonb, b.callback),
  result_ttl_seconds = COALESCE(:result_ttl_seconds::float8, b.result_ttl_seconds),
  attempts = 0, lost_leases = 0, last_error = NULL"""


REPLACE_HOLDER: Final = _change(_REPLACED, due=_DUE)
"""The attempts that failed were the other payload's; the history keeps them. JSON travels as text: a
caller's connection may have a codec of its own."""


REPLACE_LATEST: Final = _change(
    _REPLACED,
    due=_DUE,
    which="""b.id = (
  SELECT w.id FROM finmind_jobs.jobs_live w
  WHERE (w.unique_key = :unique_key OR w.unique_until_start = :unique_key) AND w.status = 'PENDING'
  ORDER BY w.unique_key IS NULL, w.id DESC LIMIT 1 FOR UPDATE)""",
)
"""The same of a job that has started before and waits for its next attempt, if no newer one waits."""


EXTEND_HOLDER: Final = _change(
    "",
    due=f"greatest(COALESCE(b.held_due_at, b.next_run_at), least({_DUE},"
    " b.created_at + make_interval(secs => :debounce_max_seconds::float8)))",
)


_SAVEPOINT: Final = Statement("SAVEPOINT finmind_holder")
_UNDO: Final = Statement("ROLLBACK TO SAVEPOINT finmind_holder")
_RELEASE: Final = Statement("RELEASE SAVEPOINT finmind_holder")


def _holder(more: str) -> Statement:
    return Statement(f"""
SELECT id, created_at, COALESCE(held_due_at, next_run_at), status,
  unique_until_start IS NOT NULL, {more}
FROM finmind_jobs.jobs_live WHERE unique_key = :unique_key
""")


HOLDER: Final = _holder("job_type, enqueued_by <> :reader::text IS TRUE")
HOLDER_STATUS: Final = _holder("NULL, false")
"""The same for those who may not read whose a job is: the role of applications."""


class Holder(NamedTuple):
    """The live job that has a key."""

    id: JobId
    created_at: Any
    next_run_at: Any
    status: JobStatus
    until_start: bool
    """Whether it has the key until it starts."""
    job_type: str | None
    of_another: bool
    """Whether it is another caller's than the reader's."""


# Compared as jsonb: the order of keys and the spelling of numbers make no difference.
_COMPARE: Final = text("""
    SELECT asked.position, job.id IS NOT NULL AS found,
      job.job_type = asked.job_type AND job.payload = asked.payload::jsonb AS same,
      job.enqueued_by <> CAST(:reader AS text) IS TRUE AS of_another
    FROM unnest(CAST(:positions AS int[]), CAST(:ids AS bigint[]), CAST(:job_types AS text[]),
                CAST(:payloads AS text[])) AS asked(position, id, job_type, payload)
    LEFT JOIN finmind_jobs.background_jobs AS job ON job.id = asked.id
    ORDER BY asked.position""")


async def compare(
    session: AsyncSession,
    *,
    reader: str | None,
    positions: list[int],
    ids: list[JobId],
    job_types: list[str],
    payloads: list[str],
) -> Sequence[Any]:
    """Compare what was asked for with the jobs of these ids.

    Returns:
        Rows of position, found, same (type and payload), of_another (caller than `reader`).
    """
    values = {
        "reader": reader,
        "positions": positions,
        "ids": ids,
        "job_types": job_types,
        "payloads": payloads,
    }
    return (await session.execute(_COMPARE, values)).all()


async def replace_holder(fetch: Fetch, job: EncodedJobs, *, started: bool = False) -> Sequence[Any]:
    """Give the PENDING job that has the key of `job`, and its type, what `job` gives.

    With `started` also one that had the key until it started, and waits for its next attempt.

    Returns:
        Its id, created_at and the time at which it is due; nothing: there is none.
    """
    statement = REPLACE_LATEST if started else REPLACE_HOLDER
    names = (
        "unique_key", "job_type", "payload", "queue", "priority", "max_retries", "timeout_seconds",
        "backoff", "concurrency_key", "unique_until_start", "callback", "result_ttl_seconds",
        "run_at", "delay_seconds",
    )  # fmt: skip
    return await fetch(*statement.bind(**_only(job, *names)))


async def extend_holder(
    fetch: Fetch, job: EncodedJobs, *, debounce_max_seconds: float
) -> Sequence[Any]:
    """Put off the PENDING job that has the key of `job`, and its type: as `replace_holder` answers."""
    values = _only(job, "unique_key", "job_type", "run_at", "delay_seconds")
    return await fetch(*EXTEND_HOLDER.bind(**values, debounce_max_seconds=debounce_max_seconds))


async def unlocked(fetch: Fetch, change: Callable[[], Awaitable[Sequence[Any]]]) -> Sequence[Any]:
    """Change a holder, and keep no lock of one that was not changed.

    An UPDATE that waited for a claim has locked the row when it finds that the job runs now: its worker
    could not settle it before the caller's transaction ends.
    """
    await fetch(*_SAVEPOINT.bind())
    rows = await change()
    if not rows:
        await fetch(*_UNDO.bind())
    await fetch(*_RELEASE.bind())
    return rows


async def holder(fetch: Fetch, unique_key: str, *, reader: str | None) -> Holder | None:
    """The live job that has the key."""
    rows = await fetch(*HOLDER.bind(unique_key=unique_key, reader=reader))
    return Holder(*rows[0]) if rows else None


async def holder_status(fetch: Fetch, unique_key: str) -> Holder | None:
    """The same without its type, as of nobody else."""
    rows = await fetch(*HOLDER_STATUS.bind(unique_key=unique_key))
    return Holder(*rows[0]) if rows else None


def _only(job: EncodedJobs, *names: str) -> dict[str, Any]:
    """Values of the one job, by name."""
    return {name: job.columns[name][0] for name in names}
