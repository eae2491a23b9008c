"""What clients and operators do to jobs, statement by statement."""

from datetime import datetime
from itertools import zip_longest
from typing import Any

from service.jobs.core.job import DEAD, JobStatus
from tests.simulation.rows import (
    Answer,
    Instant,
    Row,
    Tables,
    entry,
    microseconds,
    moment,
    since,
)


class Actors:
    """Enqueues, retries, cancels, deletes and reschedules."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def enqueue(self, at: Instant, **columns: list[Any]) -> Answer:
        rows = zip_longest(*columns.values())
        made = [self._insert(at, **dict(zip(columns, row, strict=True))) for row in rows]
        return [(row.id, moment(at.clock), moment(row.next_run_at)) for row in made]

    def _insert(
        self, at: Instant, *, job_type: str, payload: str | None, queue: str | None, priority: int | None,
        max_retries: int | None, timeout_seconds: float | None, run_at: datetime | None,
        delay_seconds: float | None, unique_key: str | None, backoff: str | None,
    ) -> Row:  # fmt: skip
        due = at.clock + microseconds(delay_seconds or 0) if run_at is None else since(run_at)
        self.tables.last_job_id += 1
        return self.tables.add(
            Row(
                id=self.tables.last_job_id, job_type=job_type, payload=payload or "{}",
                queue=queue or "default", priority=2 if priority is None else priority,
                max_retries=max_retries, timeout_seconds=timeout_seconds, next_run_at=due,
                unique_key=unique_key, backoff=backoff, lease_token=0,
            )
        )  # fmt: skip

    def retry_dead(self, at: Instant, *, job_id: int, by: str | None, max_errors: int) -> Answer:
        row = self.tables.jobs.get(job_id)
        if row is None or row.status not in DEAD:
            return []
        self.tables.change(row)
        row.note(
            entry("manual_retry", row.attempts, row.status.value, None) | {"by": by},
            keep=max_errors,
        )
        row.wait()
        row.attempts, row.lost_leases, row.next_run_at = 0, 0, at.clock
        row.finished_at = row.lease_token = row.result = row.progress = None
        return [(row.id, row.job_type, row.queue, row.priority)]

    def cancel(self, at: Instant, *, job_id: int) -> Answer:
        row = self._pending(job_id)
        if row is None:
            return []
        row.end(JobStatus.CANCELLED, at)
        row.lease_token = row.worker_id = None
        return [(row.id, row.job_type)]

    def delete(self, _: Instant, *, job_id: int) -> Answer:
        row = self.tables.jobs.get(job_id)
        if row is None or row.status is JobStatus.RUNNING:
            return []
        self.tables.remove(row)
        return [(job_id,)]

    def reschedule(self, _: Instant, *, job_id: int, run_at: datetime) -> Answer:
        row = self._pending(job_id)
        if row is None:
            return []
        row.next_run_at = since(run_at)
        return [(row.id, row.queue, row.priority)]

    def _pending(self, job_id: int) -> Row | None:
        """The job, to be changed, if it is PENDING."""
        row = self.tables.jobs.get(job_id)
        if row is None or row.status is not JobStatus.PENDING:
            return None
        return self.tables.change(row)
