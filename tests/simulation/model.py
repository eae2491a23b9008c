"""The engine's statements in plain Python, on rows in memory: each at once, or not at all.

What each means is told by its SQL; test_model.py plays the same sequences to both. A method takes the
parameters of its statement by their names.
"""

import json
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, Final

import asyncpg

from service.jobs import store
from service.jobs.core.job import JobStatus
from service.jobs.store.statement import Statement
from tests.jobs.statements import values_of
from tests.simulation.actors import Actors
from tests.simulation.claims import Claims
from tests.simulation.maintenance import Maintenance
from tests.simulation.rows import (
    Answer,
    Instant,
    Tables,
    microseconds,
)

Nulls = list[str | None]

REFUSED: Final = "refused by the server"
"""A result that holds these words is refused as PostgreSQL refuses a value out of range."""


class Model:
    """Tables, and what each statement does to them."""

    def __init__(self) -> None:
        self.tables = Tables()
        claims, actors = Claims(self.tables), Actors(self.tables)
        maintenance = Maintenance(self.tables)
        plays: dict[Statement, Callable[..., Answer]] = {
            store.lanes.LANES: claims.lanes,
            store.lanes.LANES_OF: claims.lanes_of,
            store.lanes.RECENT_LANES: claims.recent_lanes,
            store.claim.CLAIM: claims.claim,
            store.claim.CLAIM_WITHIN_LIMITS: claims.claim_within_limits,
            store.claim.WINDOW_ENDS: claims.window_ends,
            store.claim.DUE_JOBS: claims.due_jobs,
            store.claim.CLAIM_ONE: claims.claim_one,
            store.claim.FAIL_REFUSED: claims.fail_refused,
            store.lost_claims.LOST_CLAIMS: claims.lost_claims,
            store.lost_claims.RELEASE_LOST: claims.release_lost,
            store.settle.FINISH: self.finish,
            store.settle.REQUEUE: self.requeue,
            store.settle.SETTLED_BEFORE: self.settled_before,
            store.leases.EXTEND: self.extend,
            store.progress.PROGRESS: self.write_progress,
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
            store.gauges.QUEUE_GAUGES: maintenance.queue_gauges,
            store.partitions.TODAY: maintenance.today,
            store.partitions.DAY_LEAVES: maintenance.day_leaves,
            store.partitions.DAY_TABLES: maintenance.day_leaves,
            store.retention.DROP_OLD_WORKERS: lambda _: [],
            store.gauges.SERVED_QUEUES: lambda _, limit: [],
            store.created_jobs.CREATED_IDS: lambda _: [(0, 1, 1)],
        }
        for duty in (
            store.kept_counts.STATS_ROWS, store.kept_counts.FOLD_STATS, store.retention.DROP_DEAD_BEFORE,
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
        self.tables.ended_in.update(
            change.after.queue
            for change in self.tables.changes
            if change.after and not change.after.live
        )
        return answer

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
            row = self.tables.held(job_id, token)
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
            row = self.tables.held(job_id, token)
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
            row = self.tables.held(job_id, token)
            if row is not None:
                row.lease_until = at.now + microseconds(lease_seconds)
                held.append((job_id, token))
        return held

    def write_progress(
        self, _: Instant, *, ids: list[int], tokens: list[int], progress: list[str]
    ) -> Answer:
        held: Answer = []
        for job_id, token, text in zip(ids, tokens, progress, strict=True):
            row = self.tables.held(job_id, token)
            if row is not None:
                row.progress = text
                held.append((job_id, token))
        return held
