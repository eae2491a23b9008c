"""What claims take, statement by statement: listed, claimed, refused, lost and given back."""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

from service.jobs.core.job import JobStatus
from tests.simulation.rows import (
    MICROSECONDS,
    Answer,
    Instant,
    Row,
    Tables,
    entry,
    epoch,
    microseconds,
    time_of,
)

CLAIMED_COLUMNS: Final = 18
"""What a claim answers of each job."""


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
        return epoch(first.next_run_at), at.now / MICROSECONDS

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
        lease_seconds: float, worker_id: int, max_errors: int, **lanes: Any,
    ) -> Answer:  # fmt: skip
        due: list[Row] = []
        for window, here in zip(self._windows(at, **lanes), limits, strict=True):
            due += self._free_of(window, job_types, at)[:here]
        return self.lease(due[:limit], at, lease_seconds, worker_id, max_errors)

    def claim_within_limits(
        self, at: Instant, *, first_lanes: list[int], last_lanes: list[int], limits: list[int],
        job_types: list[str], limit: int, lease_seconds: float, worker_id: int, max_errors: int,
        orphans_alone: bool = False, **lanes: Any,
    ) -> Answer:  # fmt: skip
        due = self.due_within_limits(
            at, first_lanes=first_lanes, last_lanes=last_lanes, limits=limits, job_types=job_types,
            limit=limit, orphans_alone=orphans_alone, **lanes,
        )  # fmt: skip
        return self.lease(due, at, lease_seconds, worker_id, max_errors)

    def due_within_limits(
        self, at: Instant, *, first_lanes: list[int], last_lanes: list[int], limits: list[int],
        job_types: list[str], limit: int, orphans_alone: bool = False, **lanes: Any,
    ) -> list[Row]:  # fmt: skip
        """What a claim takes that asks for several lanes of a queue."""
        windows = list(self._windows(at, **lanes))
        if orphans_alone:
            windows = [[row for row in one if row.status is JobStatus.RUNNING] for one in windows]
        due: list[Row] = []
        for first, last, here in zip(first_lanes, last_lanes, limits, strict=True):
            of_queue = chain.from_iterable(windows[first - 1 : last])
            due += self._free_of(of_queue, job_types, at)[:here]
        return due[:limit]

    def claim_beside_keys(
        self, at: Instant, *, first_lanes: list[int], last_lanes: list[int], limits: list[int],
        unkeyed: list[bool], job_types: list[str], limit: int, lease_seconds: float,
        worker_id: int, max_errors: int, **lanes: Any,
    ) -> Answer:  # fmt: skip
        windows = [
            [
                row
                for row in window
                if not apart or row.concurrency_key is None or row.status is JobStatus.RUNNING
            ]
            for window, apart in zip(self._windows(at, **lanes), unkeyed, strict=True)
        ]
        due: list[Row] = []
        for first, last, here in zip(first_lanes, last_lanes, limits, strict=True):
            of_queue = chain.from_iterable(windows[first - 1 : last])
            due += self._free_of(of_queue, job_types, at)[:here]
        return self.lease(due[:limit], at, lease_seconds, worker_id, max_errors)

    def claim_by_keys(
        self, at: Instant, *, queue: str, priority: int, after_key: str, limit: int, walk: int,
        job_types: list[str], lease_seconds: float, worker_id: int, max_errors: int,
    ) -> Answer:  # fmt: skip
        looked, free = after_key, list[list[Row]]()
        ring = self._ring(queue, priority, after_key)
        turns = 0
        for key, rows in ring:
            if turns == walk or len(free) == limit:
                break
            turns, looked = turns + 1, key
            due = [row for row in rows if row.next_run_at <= at.now]
            if ready := self._free_of(due, job_types, at):
                free.append(ready)
        whole = turns < walk and len(free) < limit
        share = math.ceil(limit / len(free)) if free else 0
        chosen = [row for rows in free for row in rows[:share]][:limit]
        taken = self.lease(chosen, at, lease_seconds, worker_id, max_errors)
        return [(looked, whole, *row) for row in taken or [(None,) * CLAIMED_COLUMNS]]

    def _ring(self, queue: str, priority: int, after_key: str) -> list[tuple[str, list[Row]]]:
        """The jobs of each concurrency key of a lane, from the key behind that one on."""
        by_key: dict[str, list[Row]] = {}
        for row in self.tables.lane(queue, priority):
            if row.concurrency_key is not None:
                by_key.setdefault(row.concurrency_key, []).append(row)
        order = sorted(by_key, key=lambda key: (key <= after_key, key))
        return [(key, by_key[key]) for key in order]

    def first_by_keys(
        self, at: Instant, *, queue: str, priority: int, after_key: str, limit: int, walk: int,
        job_types: list[str],
    ) -> Answer:  # fmt: skip
        for _, rows in self._ring(queue, priority, after_key)[:walk]:
            due = [row for row in rows if row.next_run_at <= at.now]
            if ready := self._free_of(due, job_types, at):
                return [(ready[0].id, ready[0].job_type)]
        return []

    def lost_by_keys(
        self, at: Instant, *, queue: str, priority: int, after_key: str, walk: int, jobs_walk: int,
        worker_id: int, known: list[int],
    ) -> Answer:  # fmt: skip
        return [
            (row.id, row.lease_token)
            for _, rows in self._ring(queue, priority, after_key)[:walk]
            for row in rows[:jobs_walk]
            if row.next_run_at <= at.now and row.status is JobStatus.RUNNING
            and row.worker_id == worker_id and row.lease_token not in known
        ]  # fmt: skip

    @staticmethod
    def _free_of(window: Iterable[Row], job_types: list[str], at: Instant) -> list[Row]:
        return [row for row in window if row.job_type in job_types and row.free(at)]

    def claim_one(
        self, at: Instant, *, job_id: int, lease_seconds: float, worker_id: int, max_errors: int
    ) -> Answer:
        row = self._free(job_id, at)
        due = [row] if row is not None and row.next_run_at <= at.now else []
        return self.lease(due, at, lease_seconds, worker_id, max_errors)

    def due_jobs(
        self, at: Instant, *, queue: str, priority: int, from_at: float, from_id: int,
        before_at: float, before_id: int, job_types: list[str], limit: int,
    ) -> Answer:  # fmt: skip
        window = self._window(at, queue, priority, from_at, from_id, before_at, before_id)
        return [(row.id, row.job_type) for row in self._free_of(window, job_types, at)[:limit]]

    def fail_refused(self, at: Instant, *, job_id: int, reason: str, max_errors: int) -> Answer:
        row = self._free(job_id, at)
        if row is None:
            return []
        self.tables.free_permits(row)
        self.tables.fail_unrun(self.tables.change(row), at)
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

    def lease(
        self, taken: list[Row], at: Instant, lease_seconds: float, worker_id: int, max_errors: int,
        *, permits: Mapping[int, list[str] | None] | None = None, held: bool = False,
    ) -> Answer:  # fmt: skip
        """Put jobs under a new lease, with these permits if any; what was held is due at its own time again."""
        self.tables.last_token += bool(taken)
        rescued = {row.id for row in taken if row.status is JobStatus.RUNNING}
        for row in taken:
            self._take(row, at, microseconds(lease_seconds), worker_id, max_errors)
            if permits is not None:
                row.permits = permits[row.id]
            if held:
                row.next_run_at = at.now if row.held_due_at is None else row.held_due_at
                row.held_for = row.held_due_at = None
        return [
            (row.id, row.lease_token, row.queue, row.job_type, row.priority, row.attempts,
             row.max_retries, row.timeout_seconds, row.lost_leases,
             row.next_run_at / MICROSECONDS, (at.now - row.next_run_at) / MICROSECONDS,
             row.payload, row.backoff, row.id in rescued, row.cancel is not None,
             row.concurrency_key, None if row.permits is None else list(row.permits),
             row.unique_until_start)
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
                self.tables.free_permits(row)
                row.permits = None
                row.wait()
                released.append((job_id,))
        return released
