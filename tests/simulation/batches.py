"""Sets of jobs that are counted together, statement by statement."""

import json
from typing import Any

from service.jobs.core.dependencies import DELETED
from service.jobs.core.job import JobStatus
from service.jobs.store.batches import COUNTS
from tests.simulation.rows import Answer, BatchRow, Instant, Row, Tables, entry

COLUMN_OF = {status: column for column, status in COUNTS.items()}


class Batches:
    """Counts members, cancels them, and enqueues the jobs of batches."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def create_batch(
        self, _: Instant, *, name: str, on_complete: str | None, on_failure: str | None,
        created_by: str | None,
    ) -> Answer:  # fmt: skip
        batch_id = len(self.tables.batches) + 1
        self.tables.batches[batch_id] = BatchRow(batch_id, name, on_complete, on_failure)
        return [(batch_id,)]

    def open_batches(self, _: Instant, *, ids: list[int]) -> Answer:
        rows = [self.tables.batches[one] for one in ids if one in self.tables.batches]
        return [(row.id, None, not row.closed, row.counts["jobs"]) for row in rows]

    def change_counts(
        self, _: Instant, *, batch_ids: list[int], statuses: list[str], jobs: list[int]
    ) -> Answer:
        for batch_id, status, count in zip(batch_ids, statuses, jobs, strict=True):
            self.tables.tell(None, status, batch_id=batch_id, jobs=count)
        return []

    def close_batch(self, _: Instant, *, batch_id: int) -> Answer:
        row = self.tables.batches.get(batch_id)
        if row is None or row.closed:
            return []
        row.closed = True
        return [(row.id,)]

    def cancel_batch(self, _: Instant, *, batch_id: int, by: str | None) -> Answer:
        row = self.tables.batches.get(batch_id)
        if row is None or row.cancelled or row.complete:
            return []
        row.cancelled = row.closed = True
        return [(row.id,)]

    def settle_endings(self, _: Instant, *, ids: list[int]) -> Answer:
        gone = [self.tables.endings.pop(one) for one in ids if one in self.tables.endings]
        for ending in gone:
            row = self.tables.batches.get(ending.batch_id or 0)
            if row is not None and ending.status in COLUMN_OF:
                row.counts[COLUMN_OF[ending.status]] += ending.jobs
        return [(ending.id, ending.batch_id) for ending in gone]

    def complete_batches(self, at: Instant, *, ids: list[int]) -> Answer:
        waiting = {ending.batch_id for ending in self.tables.endings.values()}
        answer: Answer = []
        for batch_id in sorted(ids):
            row = self.tables.batches.get(batch_id)
            if row is None or batch_id in waiting:
                continue
            complete, failed = self._is_complete(row), self._has_failed(row)
            row.complete = row.complete or complete
            row.told_failure = row.told_failure or failed
            made = [
                self._enqueue(at, row, job)
                for due, job in ((complete, row.on_complete), (failed, row.on_failure))
                if due and job is not None
            ]
            for job in made:
                answer.append((row.id, row.name, complete, job.job_type, job.queue, job.priority))
            if complete and not made:
                answer.append((row.id, row.name, complete, None, None, None))
        return answer

    def _enqueue(self, at: Instant, row: BatchRow, text: str) -> Row:
        job = json.loads(text)
        self.tables.last_job_id += 1
        counts: dict[str, Any] = {"id": row.id, "name": row.name} | row.counts
        return self.tables.add(
            Row(
                id=self.tables.last_job_id, job_type=job["job_type"], queue=job["queue"],
                priority=job["priority"], payload=json.dumps(job["payload"] | {"batch": counts}),
                next_run_at=at.clock, created_at=at.now, max_retries=job["max_retries"],
                timeout_seconds=job["timeout_seconds"], lease_token=0,
            )
        )  # fmt: skip

    def due_batches(self, _: Instant, *, limit: int) -> Answer:
        due = [
            row.id
            for row in self.tables.batches.values()
            if not row.complete
            and (row.cancelled or self._is_complete(row) or self._has_failed(row))
        ]
        return [(batch_id,) for batch_id in due[:limit]]

    def lost_members(self, _: Instant, *, limit: int) -> Answer:
        waited_for = {ending.batch_id for ending in self.tables.endings.values()}
        waited_for |= {row.batch_id for row in self.tables.live()}
        answer: Answer = []
        for row in self.tables.batches.values():
            missing = row.counts["jobs"] - self._ended(row)
            if row.closed and not row.complete and missing > 0 and row.id not in waited_for:
                answer.append((row.id, missing))
        for batch_id, missing in answer[:limit]:
            self.tables.tell(None, DELETED, batch_id=batch_id, jobs=missing)
        return answer[:limit]

    def cancelled_batches(self, _: Instant, *, ids: list[int]) -> Answer:
        rows = [self.tables.batches[one] for one in ids if one in self.tables.batches]
        return [(row.id,) for row in rows if row.cancelled and not row.complete]

    def cancel_members(
        self, at: Instant, *, batch_id: int, limit: int, max_errors: int, message: str
    ) -> Answer:
        waiting = [
            row
            for row in self.tables.jobs.values()
            if row.batch_id == batch_id and row.status is JobStatus.PENDING
        ]
        for row in waiting:
            self.tables.change(row)
            row.note(
                entry("cancelled", row.attempts, None, None) | {"by": "python"}, keep=max_errors
            )
            self.tables.end(row, JobStatus.CANCELLED, at)
            row.lease_token = row.worker_id = None
        return [(row.id, row.job_type) for row in waiting]

    def running_members(self, _: Instant, *, batch_id: int, limit: int) -> Answer:
        return [
            (row.id, None)
            for row in self.tables.jobs.values()
            if row.batch_id == batch_id and row.status is JobStatus.RUNNING and row.cancel is None
        ][:limit]

    def _ended(self, row: BatchRow) -> int:
        return sum(count for column, count in row.counts.items() if column != "jobs")

    def _is_complete(self, row: BatchRow) -> bool:
        return row.closed and not row.complete and self._ended(row) >= row.counts["jobs"]

    def _has_failed(self, row: BatchRow) -> bool:
        failed = row.counts["failed"] + row.counts["dead_lettered"]
        return row.on_failure is not None and not row.told_failure and failed > 0
