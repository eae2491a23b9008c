"""The engine's statements in plain Python, on rows in memory: each at once, or not at all.

What each means is told by its SQL; test_model.py plays the same sequences to both. A method takes the
parameters of its statement by their names.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, Final

import asyncpg

from service.jobs import store
from service.jobs.core.job import JobStatus
from service.jobs.store.statement import Statement
from tests.jobs.statements import values_of
from tests.simulation.actors import Actors
from tests.simulation.maintenance import Maintenance
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

Nulls = list[str | None]

REFUSED: Final = "refused by the server"
"""A result that holds these words is refused as PostgreSQL refuses a value out of range."""


class Model:
    """Tables, and what each statement does to them."""

    def __init__(self) -> None:
        self.tables = Tables()
        self._ended_in: set[str] = set()
        """Queues in which jobs have ended: those that have counts."""
        actors, maintenance = Actors(self.tables), Maintenance(self.tables)
        plays: dict[Statement, Callable[..., Answer]] = {
            store.lanes.LANES: self.lanes,
            store.lanes.LANES_OF: self.lanes_of,
            store.lanes.RECENT_LANES: self.recent_lanes,
            store.claim.CLAIM: self.claim,
            store.claim.CLAIM_WITHIN_LIMITS: self.claim_within_limits,
            store.claim.WINDOW_ENDS: self.window_ends,
            store.claim.DUE_JOBS: self.due_jobs,
            store.claim.CLAIM_ONE: self.claim_one,
            store.claim.FAIL_REFUSED: self.fail_refused,
            store.leases.LOST_CLAIMS: self.lost_claims,
            store.leases.RELEASE_LOST: self.release_lost,
            store.settle.FINISH: self.finish,
            store.settle.REQUEUE: self.requeue,
            store.settle.SETTLED_BEFORE: self.settled_before,
            store.leases.EXTEND: self.extend,
            store.leases.PROGRESS: self.write_progress,
            store.enqueue.ENQUEUE: actors.enqueue,
            store.actions.RETRY_DEAD: actors.retry_dead,
            store.actions.CANCEL: actors.cancel,
            store.actions.DELETE: actors.delete,
            store.actions.RESCHEDULE: actors.reschedule,
            store.workers.REGISTER_WORKER: maintenance.register_worker,
            store.workers.WORKER_SEEN: maintenance.worker_seen,
            store.workers.WORKER_STOPPED: maintenance.worker_stopped,
            store.workers.FORGET_WORKER: maintenance.forget_worker,
            store.served_types.SERVED_TYPES: maintenance.served_types,
            store.served_types.REMEMBER_SERVED_TYPES: maintenance.remember_served_types,
            store.served_types.REMEMBERED_TYPES: maintenance.remembered_types,
            store.served_types.FORGET_SERVED_TYPES: maintenance.forget_served_types,
            store.served_types.FAIL_UNSERVED: maintenance.fail_unserved,
            store.served_types.WAITING_FOR_WORKER: maintenance.waiting_for_worker,
            store.counts.QUEUE_GAUGES: maintenance.queue_gauges,
            store.partitions.TODAY: maintenance.today,
            store.partitions.DAY_LEAVES: maintenance.day_leaves,
            store.partitions.DAY_TABLES: maintenance.day_leaves,
            store.retention.DROP_OLD_WORKERS: lambda _: [],
            store.counts.SERVED_QUEUES: lambda _, limit: [],
            store.counts.CREATED_IDS: lambda _: [(0, 1, 1)],
        }
        for duty in (
            store.counts.STATS_ROWS, store.counts.FOLD_STATS, store.retention.DROP_DEAD_BEFORE,
            store.retention.DROP_DEFAULT_BEFORE, store.retention.DROP_IDEMPOTENCY_KEYS,
            store.retention.DROP_CALLER_USAGE, store.retention.DROP_JOB_NAMES,
        ):  # fmt: skip
            plays[duty] = lambda _, **values: [(0,)]
        self._plays = {statement.sql: (statement, play) for statement, play in plays.items()}

    @property
    def known(self) -> set[str]:
        """The statements that are played, as PostgreSQL is sent them."""
        return set(self._plays)

    def execute(self, sql: str, args: Sequence[Any], at: Instant) -> Answer:
        """Carry one statement out; `tables.changes` tells what it did.

        Raises:
            asyncpg.PostgresError: PostgreSQL would refuse it, and nothing was done.
        """
        self.tables.changes.clear()
        statement, play = self._plays[sql]
        answer = play(at, **values_of(statement, args))
        self._ended_in.update(
            change.after.queue
            for change in self.tables.changes
            if change.after and not change.after.live
        )
        return answer

    # -- claim ------------------------------------------------------------------------------------

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
        counted = sorted(self._ended_in)[:limit] if queues is None else queues
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
            row = self._held(job_id, token)
            if row is not None:
                row.attempts -= 1
                row.wait()
                released.append((job_id,))
        return released

    # -- settle -----------------------------------------------------------------------------------

    def finish(
        self, at: Instant, *, ids: list[int], tokens: list[int], statuses: Nulls, results: Nulls,
        failures: Nulls, max_errors: int,
    ) -> Answer:  # fmt: skip
        if any(REFUSED in (result or "") for result in results):
            raise asyncpg.NumericValueOutOfRangeError("a value is out of range")
        lost: Answer = []
        for job_id, token, status, result, failure in zip_longest(
            ids, tokens, statuses, results, failures
        ):
            row = self._held(job_id, token)
            if row is None:
                lost.append((job_id, token))
                continue
            told = json.loads(failure) if failure else None
            row.attempts -= bool(told and told["event"] == "lease_lost")
            row.result = result
            if status is None:
                row.progress = None
            row.end(JobStatus(status or "SUCCESS"), at)
            if told:
                row.fail(told, keep=max_errors)
        return lost

    def requeue(
        self, at: Instant, *, ids: list[int], tokens: list[int], delays: list[float | None],
        refunds: list[int], failures: Nulls, keeps_lost_leases: list[bool], max_errors: int,
    ) -> Answer:  # fmt: skip
        lost: Answer = []
        for job_id, token, delay, refund, failure, keeps in zip(
            ids, tokens, delays, refunds, failures, keeps_lost_leases, strict=True
        ):
            row = self._held(job_id, token)
            if row is None:
                lost.append((job_id, token))
                continue
            row.attempts -= refund
            if not keeps:  # it came to an end of its own
                row.lost_leases = 0
            if delay is not None:
                row.next_run_at = at.clock + microseconds(delay)
            row.wait()
            if failure:
                row.fail(json.loads(failure), keep=max_errors)
        return lost

    def _held(self, job_id: int, token: int) -> Row | None:
        """The job, to be changed, if this claim of it holds."""
        row = self.tables.jobs.get(job_id)
        return self.tables.change(row) if row is not None and row.holds(token) else None

    def settled_before(self, _: Instant, *, ids: list[int], tokens: list[int]) -> Answer:
        jobs = self.tables.jobs
        return [
            (job_id, token)
            for job_id, token in zip(ids, tokens, strict=True)
            if job_id in jobs
            and jobs[job_id].lease_token == token
            and jobs[job_id].status is not JobStatus.RUNNING
        ]

    def extend(
        self, at: Instant, *, ids: list[int], tokens: list[int], lease_seconds: float
    ) -> Answer:
        held: Answer = []
        for job_id, token in zip(ids, tokens, strict=True):
            row = self._held(job_id, token)
            if row is not None:
                row.lease_until = at.now + microseconds(lease_seconds)
                held.append((job_id, token))
        return held

    def write_progress(
        self, _: Instant, *, ids: list[int], tokens: list[int], progress: list[str]
    ) -> Answer:
        held: Answer = []
        for job_id, token, text in zip(ids, tokens, progress, strict=True):
            row = self._held(job_id, token)
            if row is not None:
                row.progress = text
                held.append((job_id, token))
        return held
