"""Keys that are held for some time, even after their job has ended."""

from datetime import datetime
from typing import Final, NamedTuple

from service.jobs.core.job import JobId
from service.jobs.core.new_job import EnqueuedJob
from service.jobs.store.enqueue import Fetch
from service.jobs.store.statement import Statement

LOCK_WINDOW: Final = Statement("""
INSERT INTO finmind_jobs.unique_windows AS w (key, job_id, created_at, next_run_at, until)
VALUES (:unique_key, 0, now(), now(), '-infinity')
ON CONFLICT (key) DO UPDATE SET key = excluded.key
RETURNING job_id, created_at, next_run_at, until, until > clock_timestamp(),
  enqueued_by <> :reader::text IS TRUE
""")
"""Whoever asks for the same key waits until this transaction has ended."""


OPEN_WINDOW: Final = Statement("""
UPDATE finmind_jobs.unique_windows SET job_id = :job_id, created_at = :created_at::timestamptz,
  next_run_at = :next_run_at::timestamptz, enqueued_by = :caller::text,
  until = :created_at::timestamptz + make_interval(secs => :seconds)
WHERE key = :unique_key
""")


class Window(NamedTuple):
    """A job whose key is held until some time."""

    job_id: JobId
    created_at: datetime
    next_run_at: datetime
    until: datetime
    open: bool
    """Whether that time is still to come."""
    of_another: bool
    """Whether it is another caller's than the reader's."""


async def lock(fetch: Fetch, unique_key: str, *, reader: str | None) -> Window:
    """The window of the key, which nobody opens before the transaction ends."""
    rows = await fetch(*LOCK_WINDOW.bind(unique_key=unique_key, reader=reader))
    return Window(*rows[0])


async def open_for(
    fetch: Fetch, unique_key: str, job: EnqueuedJob, *, caller: str | None, seconds: float
) -> None:
    """Hold the key for so long from the creation of the job."""
    await fetch(
        *OPEN_WINDOW.bind(
            unique_key=unique_key, job_id=job.id, created_at=job.created_at,
            next_run_at=job.next_run_at, caller=caller, seconds=seconds,
        )
    )  # fmt: skip
