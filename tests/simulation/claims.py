"""What claims take, statement by statement: listed, claimed, refused, lost and given back."""

import math
from collections.abc import Iterator
from typing import Any

from service.jobs.core.job import JobStatus
from tests.simulation.rows import (
    MICROSECONDS,
    Answer,
    Instant,
    Row,
    Tables,
    entry,
    microseconds,
    time_of,
)


class Claims:
    """Lanes, and the claims of their jobs."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def lanes(self, at: Instant, *, limit: int, after_queue: str, after_priority: int) -> Answer:
        found = sorted({(row.queue, row.priority) for row in self.tables.live()})
        behind = [lane for lane in found if lane > (after_queue, after_priority)]
        return [(*lane, *self._head(lane, at)) for lane in behind[:limit]]

    def lanes_of(self, at: Instant, *, queues: list[str]) -> Answer:
        found = {(row.queue, row.priority) for row in self.tables.live()}
        each = [(queue, priority) for queue in queues for priority in range(10)]
        return [(*lane, *self._head(lane, at)) for lane in each if lane in found]

    def recent_lanes(
        self, at: Instant, *, queues: list[str] | None, limit: int, within_seconds: float
    ) -> Answer:
        since = at.now - microseconds(within_seconds)
        counted = sorted(self.tables.ended_in)[:limit] if queues is None else queues
        lanes = {
            (row.queue, row.priority)
            for row in self.tables.live()
            if since <= row.next_run_at <= at.now
        }
        return [lane for lane in sorted(lanes) if lane[0] in counted]

    def _head(self, lane: tuple[str, int], at: Instant) -> tuple[float, float]:
        first = self.tables.lane(*lane)[0]
        return first.next_run_at / MICROSECONDS, at.now / MICROSECONDS

    def _windows(
        self, at: Instant, *, queues: list[str], priorities: list[int], from_at: list[float],
        from_id: list[int], before_at: list[float], before_id: list[int],
    ) -> Iterator[list[Row]]:  # fmt: skip
        """The due jobs of each lane, from the one place on, before the other."""
        for lane in zip(queues, priorities, from_at, from_id, before_at, before_id, strict=True):
            yield self._window(at, *lane)

    def _window(
        self, at: Instant, queue: str, priority: int, from_at: float, from_id: int,
        before_at: float = math.inf, before_id: int = 0,
    ) -> list[Row]:  # fmt: skip
        first, end = (time_of(from_at), from_id), (time_of(before_at), before_id)
        return [
            row
            for row in self.tables.lane(queue, priority)
            if row.next_run_at <= at.now and first <= row.place < end
        ]

    def claim(
        self, at: Instant, *, limits: list[int], job_types: list[str], limit: int,
        lease_seconds: float, worker_id: int, max_errors: int, within: bool = False, **lanes: Any,
    ) -> Answer:  # fmt: skip
        due: list[tuple[Row, int]] = []
        for window, here in zip(self._windows(at, **lanes), limits, strict=True):
            fit = [row for row in window if row.job_type in job_types and row.free(at)]
            due += [(row, here) for row in fit[:here]]
        taken: list[Row] = []
        for row, here in due[:limit]:
            if not within or sum(other.queue == row.queue for other in taken) < here:
                taken.append(row)
        return self._lease(taken, at, lease_seconds, worker_id, max_errors)

    def claim_within_limits(self, at: Instant, **values: Any) -> Answer:
        return self.claim(at, **values, within=True)

    def claim_one(
        self, at: Instant, *, job_id: int, lease_seconds: float, worker_id: int, max_errors: int
    ) -> Answer:
        row = self._free(job_id, at)
        due = [row] if row is not None and row.next_run_at <= at.now else []
        return self._lease(due, at, lease_seconds, worker_id, max_errors)

    def due_jobs(
        self, at: Instant, *, queue: str, priority: int, from_at: float, from_id: int,
        before_at: float, before_id: int, job_types: list[str], limit: int,
    ) -> Answer:  # fmt: skip
        window = self._window(at, queue, priority, from_at, from_id, before_at, before_id)
        fit = [row for row in window if row.job_type in job_types and row.free(at)]
        return [(row.id, row.job_type) for row in fit[:limit]]

    def fail_refused(self, at: Instant, *, job_id: int, reason: str, max_errors: int) -> Answer:
        row = self._free(job_id, at)
        if row is None:
            return []
        self.tables.change(row).end(JobStatus.FAILED, at)
        row.lease_token = row.worker_id = None
        row.last_error = reason
        row.note(entry("error", row.attempts, "RefusedByDatabase", None), keep=max_errors)
        return [(row.id,)]

    def _free(self, job_id: int, at: Instant) -> Row | None:
        """The job, if it is live and nobody holds a lease of it."""
        row = self.tables.jobs.get(job_id)
        return row if row is not None and row.live and row.free(at) else None

    def window_ends(self, at: Instant, *, skip: int, **lanes: Any) -> Answer:
        return [
            (turn, row.next_run_at / MICROSECONDS, row.id)
            for turn, window in enumerate(self._windows(at, **lanes), 1)
            for row in window[skip : skip + 1]
        ]

    def _lease(
        self, taken: list[Row], at: Instant, lease_seconds: float, worker_id: int, max_errors: int
    ) -> Answer:
        self.tables.last_token += bool(taken)
        rescued = {row.id for row in taken if row.status is JobStatus.RUNNING}
        for row in taken:
            self._take(row, at, microseconds(lease_seconds), worker_id, max_errors)
        return [
            (row.id, row.lease_token, row.queue, row.job_type, row.priority, row.attempts,
             row.max_retries, row.timeout_seconds, row.lost_leases,
             row.next_run_at / MICROSECONDS, (at.now - row.next_run_at) / MICROSECONDS,
             row.payload, row.backoff, row.id in rescued)
            for row in taken
        ]  # fmt: skip

    def _take(self, row: Row, at: Instant, lease: int, worker_id: int, max_errors: int) -> None:
        self.tables.change(row)
        if row.status is JobStatus.RUNNING:
            worker = self.tables.workers.get(row.worker_id or 0)
            row.lost_leases += 1
            row.last_error = (
                f"LeaseLost: the worker stopped or stalled during attempt {row.attempts}"
            )
            row.note(
                entry("lease_lost", row.attempts, "LeaseLost", worker.name if worker else None),
                keep=max_errors,
            )
        row.status, row.attempts, row.started_at = JobStatus.RUNNING, row.attempts + 1, at.now
        row.lease_until, row.lease_token = at.now + lease, self.tables.last_token
        row.worker_id, row.progress = worker_id, None

    def lost_claims(
        self, at: Instant, *, queues: list[str], priorities: list[int], from_at: list[float],
        from_id: list[int], worker_id: int, known: list[int], walk: int,
    ) -> Answer:  # fmt: skip
        found: list[Row] = []
        for lane in zip(queues, priorities, from_at, from_id, strict=True):
            found += self._window(at, *lane)[:walk]
        return [
            (row.id, row.lease_token)
            for row in found
            if row.status is JobStatus.RUNNING
            and row.worker_id == worker_id and row.lease_token not in known
        ]  # fmt: skip

    def release_lost(self, _: Instant, *, ids: list[int], tokens: list[int]) -> Answer:
        released: Answer = []
        for job_id, token in zip(ids, tokens, strict=True):
            row = self.tables.held(job_id, token)
            if row is not None:
                row.attempts -= 1
                row.wait()
                released.append((job_id,))
        return released
