"""What clients and operators do to jobs, statement by statement."""

from datetime import datetime
from itertools import zip_longest
from typing import Any

from service.jobs.core.dependencies import AFTER
from service.jobs.core.holds import UNIQUE
from service.jobs.core.job import DEAD, JobStatus
from tests.simulation.rows import (
    Answer,
    Instant,
    QueueRow,
    Row,
    Tables,
    entry,
    microseconds,
    moment,
    since,
)


class Actors:
    """Enqueues, retries, cancels, deletes and changes jobs; pauses and resumes queues."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def enqueue(self, at: Instant, **columns: list[Any]) -> Answer:
        rows = zip_longest(*columns.values())
        made = [self.insert(at, **dict(zip(columns, row, strict=True))) for row in rows]
        return [(row.id, moment(at.clock), moment(row.next_run_at)) for row in made]

    def insert(
        self, at: Instant, *, job_type: str, payload: str | None, queue: str | None, priority: int | None,
        max_retries: int | None, timeout_seconds: float | None, run_at: datetime | None,
        delay_seconds: float | None, unique_key: str | None, backoff: str | None,
        concurrency_key: str | None = None,
    ) -> Row:  # fmt: skip
        due = due_at(at, run_at, delay_seconds or 0)
        self.tables.last_job_id += 1
        return self.tables.add(
            Row(
                id=self.tables.last_job_id, job_type=job_type, payload=payload or "{}",
                queue=queue or "default", priority=2 if priority is None else priority,
                max_retries=max_retries, timeout_seconds=timeout_seconds,
                created_at=at.clock, next_run_at=due,
                unique_key=unique_key, backoff=backoff, lease_token=0,
                concurrency_key=concurrency_key,
            )
        )  # fmt: skip

    def retry_dead(
        self, at: Instant, *, ids: list[int], payloads: list[str | None], keys: list[str | None],
        by: str | None, max_errors: int, run_at: datetime | None, max_retries: int | None,
    ) -> Answer:  # fmt: skip
        answer: Answer = []
        for job_id, payload, key in zip_longest(ids, payloads, keys):
            row = self.tables.jobs.get(job_id)
            if row is None or row.status not in DEAD:
                continue
            self.tables.change(row)
            row.note(
                entry("manual_retry", row.attempts, row.status.value, None) | {"by": by},
                keep=max_errors,
            )
            if row.batch_id is not None:
                self.tables.tell(None, row.status.value, batch_id=row.batch_id, jobs=-1)
            row.wait()
            row.attempts, row.lost_leases = 0, 0
            row.next_run_at = at.clock if run_at is None else since(run_at)
            row.payload = row.payload if payload is None else payload
            row.concurrency_key = row.concurrency_key if key is None else key or None
            row.max_retries = row.max_retries if max_retries is None else max_retries
            row.finished_at = row.lease_token = row.result = row.progress = None
            row.fingerprint = row.cancel = None
            answer.append((row.id, row.job_type, row.queue, row.priority))
        return answer

    def cancel(
        self, at: Instant, *, ids: list[int], asked_by: str | None, asked_reason: str | None,
        by: str | None, max_errors: int, message: str,
    ) -> Answer:  # fmt: skip
        found = [self.tables.jobs[job_id] for job_id in ids if job_id in self.tables.jobs]
        rows = [self.tables.change(row) for row in found if row.live and row.free(at)]
        for row in rows:
            self._note(row, "cancelled", by=by, message=message, keep=max_errors)
            self.tables.free_permits(row)
            row.cancel = row.cancel or _asked(at, asked_by, asked_reason)
            row.report(at, how="not_started")
            self.tables.end(row, JobStatus.CANCELLED, at)
            row.lease_token = row.worker_id = None
        return [(row.id, row.job_type) for row in rows]

    def ask_cancel(
        self, at: Instant, *, ids: list[int], asked_by: str | None, asked_reason: str | None
    ) -> Answer:
        asked: Answer = []
        for job_id in ids:
            row = self.tables.jobs.get(job_id)
            if row is not None and row.status is JobStatus.RUNNING and row.cancel is None:
                self.tables.change(row).cancel = _asked(at, asked_by, asked_reason)
                asked.append((row.id, row.job_type))
        return asked

    def delete(self, _: Instant, *, ids: list[int]) -> Answer:
        rows = [self.tables.jobs[job_id] for job_id in ids if job_id in self.tables.jobs]
        gone = [row for row in rows if row.status is not JobStatus.RUNNING]
        for row in gone:
            self.tables.remove(row)
        return [(row.id, row.job_type) for row in gone]

    def change(
        self, at: Instant, *, ids: list[int], run_now: bool, run_at: datetime | None,
        queue: str | None, priority: int | None, max_retries: int | None, payload: str | None,
        concurrency_key: str | None, by: str | None, max_errors: int, message: str | None,
    ) -> Answer:  # fmt: skip
        rows = [row for job_id in ids if (row := self._pending(job_id)) is not None]
        for row in rows:
            self._note(row, "changed", by=by, message=message, keep=max_errors)
            was = row.due_at
            if run_now:
                due = at.clock
            elif run_at is not None:
                due = since(run_at)
            elif queue is not None or priority is not None:
                due = max(was, at.clock)
            else:
                due = was
            moved = run_now or (run_at, queue, priority, concurrency_key) != (None,) * 4
            if row.held_for in {AFTER, UNIQUE} or (row.held_for is not None and not moved):
                row.held_due_at = due
            else:
                row.next_run_at = due
                row.let_go()
            row.queue = row.queue if queue is None else queue
            row.priority = row.priority if priority is None else priority
            row.max_retries = row.max_retries if max_retries is None else max_retries
            row.payload = row.payload if payload is None else payload
            if concurrency_key is not None:
                row.concurrency_key = concurrency_key or None
        return [(row.id, row.job_type, row.queue, row.priority) for row in rows]

    def pause_queue(
        self, at: Instant, *, name: str, by: str | None, reason: str | None, limit: int
    ) -> Answer:
        queues = self.tables.queues
        if name not in queues and len(queues) >= limit:
            return []
        queue = queues.setdefault(name, QueueRow())
        queue.paused_at = queue.paused_at or moment(at.now)
        queue.paused_by, queue.pause_reason = by, reason
        return [queue.pause]

    def resume_queue(self, _: Instant, *, name: str) -> Answer:
        queue = self.tables.queues.get(name)
        if queue is None or queue.paused_at is None:
            return []
        ended = queue.pause
        queue.paused_at = queue.paused_by = queue.pause_reason = None
        return [ended]

    def forget_unset(self, _: Instant, *, name: str) -> Answer:
        if self.tables.queues.get(name) == QueueRow():
            del self.tables.queues[name]
        return []

    def queue_settings(self, _: Instant) -> Answer:
        return [
            (name, queue.paused_at is not None, *queue.limits)
            for name, queue in sorted(self.tables.queues.items())
        ]

    def _note(
        self, row: Row, event: str, *, by: str | None, message: str | None, keep: int
    ) -> None:
        if by is not None:
            told = entry(event, row.attempts, None, None) | {"by": by, "message": message}
            row.note(told, keep=keep)

    def _pending(self, job_id: int) -> Row | None:
        """The job, to be changed, if it is PENDING."""
        row = self.tables.jobs.get(job_id)
        if row is None or row.status is not JobStatus.PENDING:
            return None
        return self.tables.change(row)


def due_at(at: Instant, run_at: datetime | None, delay_seconds: float) -> int:
    """When a new job is due."""
    return at.clock + microseconds(delay_seconds) if run_at is None else since(run_at)


def _asked(at: Instant, by: str | None, reason: str | None) -> dict[str, Any]:
    return {"requested_at": at.clock, "by": by, "reason": reason}
