"""The engine's statements in plain Python, on rows in memory: each at once, or not at all.

What each means is told by its SQL; test_model.py plays the same sequences to both. A method takes the
parameters of its statement by their names.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, Final

import asyncpg

from service.jobs import store
from service.jobs.core.job import JobStatus
from service.jobs.store.statement import Statement
from tests.jobs.statements import values_of
from tests.simulation.actors import Actors
from tests.simulation.batches import Batches
from tests.simulation.breakers import Breakers
from tests.simulation.claims import Claims
from tests.simulation.dependencies import Dependencies
from tests.simulation.maintenance import Maintenance
from tests.simulation.permits import Permits
from tests.simulation.rows import (
    Answer,
    Instant,
    Tables,
    microseconds,
)
from tests.simulation.steps import Steps
from tests.simulation.uniqueness import Uniqueness

Nulls = list[str | None]

REFUSED: Final = "refused by the server"
"""A result that holds these words is refused as PostgreSQL refuses a value out of range."""


class Model:
    """Tables, and what each statement does to them."""

    def __init__(self) -> None:
        self.tables = Tables()
        claims, actors = Claims(self.tables), Actors(self.tables)
        unique = Uniqueness(self.tables, actors)
        maintenance, dependencies = Maintenance(self.tables), Dependencies(self.tables)
        permits = Permits(self.tables, claims)
        batches, breakers = Batches(self.tables), Breakers(self.tables)
        self.steps = steps = Steps(self.tables)
        plays: dict[Statement, Callable[..., Answer]] = {
            store.lanes.LANES: claims.lanes,
            store.lanes.LANES_OF: claims.lanes_of,
            store.lanes.RECENT_LANES: claims.recent_lanes,
            store.claim.CLAIM: claims.claim,
            store.claim.CLAIM_WITHIN_LIMITS: claims.claim_within_limits,
            store.claim.CLAIM_ORPHANS: partial(claims.claim_within_limits, orphans_alone=True),
            store.claim.CLAIM_BESIDE_KEYS: claims.claim_beside_keys,
            store.claim_by_keys.CLAIM_BY_KEYS: claims.claim_by_keys,
            store.claim_by_keys.LOST_BY_KEYS: claims.lost_by_keys,
            store.claim_by_keys.FIRST_BY_KEYS: claims.first_by_keys,
            store.claim_limited.CLAIM_LIMITED: permits.claim_limited,
            store.claim.WINDOW_ENDS: claims.window_ends,
            store.claim.DUE_JOBS: claims.due_jobs,
            store.claim.CLAIM_ONE: claims.claim_one,
            store.claim.FAIL_REFUSED: claims.fail_refused,
            store.lost_claims.LOST_CLAIMS: claims.lost_claims,
            store.lost_claims.RELEASE_LOST: claims.release_lost,
            store.settle.FINISH: self.finish,
            store.settle.FINISH_PERMITTED: partial(self.finish, frees=True),
            store.settle.REQUEUE: self.requeue,
            store.settle.REQUEUE_PERMITTED: partial(self.requeue, frees=True),
            store.settle.REQUEUE_SUSPENDED: partial(self.requeue, frees=True),
            store.steps.STORE: steps.store,
            store.steps.OF_JOB: steps.of_job,
            store.steps.END_WAIT: steps.end_wait,
            store.step_events.SEND_EVENT: steps.send_event,
            store.admission.ADMIT: permits.admit,
            store.admission.MAKE_PERMITS: permits.make_permits,
            store.admission.CLAIM_HELD: permits.claim_held,
            store.admission.HOLDS: permits.holds,
            store.admission.QUEUE_PERMITS: permits.queue_permits,
            store.admission.UNHOLD_FIRST: permits.unhold_first,
            store.admission.REPAIR_PERMITS: permits.repair,
            store.admission.DROP_PERMITS: lambda _, **values: [(0,)],
            store.breakers.HOLD_FOR_BREAKER: breakers.hold,
            store.breakers.MOVE_TO_BREAKER: breakers.move,
            store.breakers.RELEASE_FROM_BREAKER: breakers.release,
            store.rate_limits.MAKE_RATES: permits.rates.make,
            store.rate_limits.QUEUE_STARTS: permits.rates.queue_starts,
            store.rate_limits.TURNS: permits.turns,
            store.rate_limits.DROP_RATE_LIMITS: permits.rates.drop_idle,
            store.settle.SETTLED_BEFORE: self.settled_before,
            store.leases.EXTEND: self.extend,
            store.progress.PROGRESS: self.write_progress,
            store.enqueue.ENQUEUE: actors.enqueue,
            store.enqueue.ENQUEUE_LIMITED: actors.enqueue,
            store.enqueue.ENQUEUE_WAITING: unique.enqueue_waiting,
            store.uniqueness.REPLACE_HOLDER: unique.replace_holder,
            store.uniqueness.REPLACE_LATEST: unique.replace_latest,
            store.uniqueness.EXTEND_HOLDER: unique.extend_holder,
            store.unique_turns.GIVE_UP_KEY: unique.give_up_key,
            store.unique_turns.START_NEXT: unique.start_next,
            store.unique_turns.START_ALL_NEXT: unique.start_all_next,
            store.unique_turns.SUPERSEDE: unique.supersede,
            store.actions.RETRY_DEAD: actors.retry_dead,
            store.actions.CANCEL: actors.cancel,
            store.cancel.ASK_CANCEL: actors.ask_cancel,
            store.cancel.END_CANCELLED: self.end_cancelled,
            store.actions.DELETE: actors.delete,
            store.actions.CHANGE: actors.change,
            store.dependencies.FLAG_PARENTS: dependencies.flag_parents,
            store.dependencies.LINK_CHILDREN: dependencies.link_children,
            store.dependencies.TAKE_ENDINGS: dependencies.take_endings,
            store.dependencies.GIVE_BACK_ENDINGS: dependencies.give_back_endings,
            store.dependencies.PARENT_STATES: dependencies.parent_states,
            store.dependencies.MARK_CHILDREN: dependencies.mark_children,
            store.dependencies.RELEASE_CHILDREN: dependencies.release_children,
            store.dependencies.CANCEL_CHILDREN: dependencies.cancel_children,
            store.dependency_sweeps.LOOK_AT_PARENTS: dependencies.look_at_parents,
            store.dependency_sweeps.LOST_MEMBERS: batches.lost_members,
            store.dependency_sweeps.DROP_DEPENDENCIES: dependencies.drop_dependencies,
            store.batches.CREATE_BATCH: batches.create_batch,
            store.batches.OPEN_BATCHES: batches.open_batches,
            store.batches.CHANGE_COUNTS: batches.change_counts,
            store.batches.CLOSE_BATCH: batches.close_batch,
            store.batches.CANCEL_BATCH: batches.cancel_batch,
            store.batches.SETTLE_ENDINGS: batches.settle_endings,
            store.batches.COMPLETE_BATCHES: batches.complete_batches,
            store.batches.DUE_BATCHES: batches.due_batches,
            store.batches.CANCELLED_BATCHES: batches.cancelled_batches,
            store.batches.CANCEL_MEMBERS: batches.cancel_members,
            store.batches.RUNNING_MEMBERS: batches.running_members,
            store.queues.PAUSE_QUEUE: actors.pause_queue,
            store.queues.RESUME_QUEUE: actors.resume_queue,
            store.queues.FORGET_UNSET: actors.forget_unset,
            store.queues.QUEUE_SETTINGS: actors.queue_settings,
            store.workers.REGISTER_WORKER: maintenance.register_worker,
            store.workers.WORKER_SEEN: maintenance.worker_seen,
            store.workers.WORKER_STOPPED: maintenance.worker_stopped,
            store.workers.FORGET_WORKER: maintenance.forget_worker,
            store.served_types.SERVED_TYPES: maintenance.served_types,
            store.served_types.REMEMBER_SERVED_TYPES: maintenance.remember_served_types,
            store.served_types.REMEMBERED_TYPES: maintenance.remembered_types,
            store.served_types.FORGET_SERVED_TYPES: maintenance.forget_served_types,
            store.served_types.PUBLISH_TYPES: lambda _, **values: [],  # its handlers have no models
            store.served_types.FAIL_UNSERVED: maintenance.fail_unserved,
            store.served_types.WAITING_FOR_WORKER: maintenance.waiting_for_worker,
            store.gauges.QUEUE_GAUGES: maintenance.queue_gauges,
            store.partitions.TODAY: maintenance.today,
            store.partitions.DAY_LEAVES: maintenance.day_leaves,
            store.partitions.DAY_TABLES: maintenance.day_leaves,
            store.retention.DROP_OLD_WORKERS: lambda _: [],
            store.gauges.SERVED_QUEUES: lambda _, limit: [],
            store.gauges.HELD: lambda _, cap: [],
            store.gauges.PERMIT_GAUGES: lambda _: [],
            store.steps.DROP_STEPS_OF_NO_JOB: lambda _, after, limit: [(None, True)],
            store.steps.DROP_EVENTS_OF_NO_JOB: lambda _, after, limit: [(None, True)],
            store.created_jobs.CREATED_IDS: lambda _: [(0, 1, 1)],
            store.created_jobs.NEWEST_AND_LIVE: lambda _: [(0, bool(self.tables.jobs))],
            store.causes.FOLD_CAUSES: lambda _, limit, kept: [(0, 0)],
            store.causes.EXCESS_CAUSES: lambda _, per_type, in_all, limit: [],
        }
        for duty in (
            store.kept_counts.STATS_ROWS, store.kept_counts.FOLD_STATS, store.retention.DROP_DEAD_BEFORE,
            store.retention.DROP_DEFAULT_BEFORE, store.retention.DROP_IDEMPOTENCY_KEYS,
            store.retention.DROP_CALLER_USAGE, store.retention.DROP_JOB_NAMES, store.retention.DROP_JOB_LOGS, store.retention.DROP_BATCHES, store.retention.DROP_UNIQUE_WINDOWS,
            store.owed.DROP_RESULTS,
            store.retention.DROP_OPERATIONS, store.retention.DROP_REMOTE_CLAIMS,
            store.retention.DROP_SCHEDULE_TICKS, store.rates.FOLD_RATES,
            store.rates.DROP_RATES,
        ):  # fmt: skip
            plays[duty] = lambda _, **values: [(0,)]
        for duty in (
            store.causes.END_IGNORING, store.causes.DROP_CAUSES, store.causes.DROP_CAUSE_HOURS,
            store.rates.RECENT_RATES, store.causes.UNDESCRIBED, store.causes.UNMARKED, store.causes.NEXT_UNMARKED, store.causes.CAUSE_GAUGES,
        ):  # fmt: skip
            plays[duty] = lambda _, **values: []
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
        failures: Nulls, timings: list[int | None], max_errors: int, frees: bool = False,
    ) -> Answer:  # fmt: skip
        if any(REFUSED in (result or "") for result in results):
            raise asyncpg.NumericValueOutOfRangeError("a value is out of range")
        lost: Answer = []
        told: Answer = []
        for job_id, token, status, result, failure in zip_longest(
            ids, tokens, statuses, results, failures
        ):
            row = self.tables.settled(job_id, token)
            if row is None:
                lost.append((job_id, token))
                continue
            why = json.loads(failure) if failure else None
            row.attempts -= bool(why and why["event"] == "lease_lost")
            row.result = result
            if status is None:
                row.progress = None
            if frees:
                self.tables.free_permits(row)
            self.tables.end(row, JobStatus(status or "SUCCESS"), at)
            told += [(0, None)] if row.is_told else []
            if why:
                row.fail(why, keep=max_errors)
                row.fingerprint = why["fingerprint"]
        return lost + told[:1]

    def requeue(
        self, at: Instant, *, ids: list[int], tokens: list[int], delays: list[float | None],
        refunds: list[int], failures: Nulls, keeps_lost_leases: list[bool],
        timings: list[int | None], max_errors: int, steps: Nulls | None = None,
        frees: bool = False,
    ) -> Answer:  # fmt: skip
        lost: Answer = []
        for job_id, token, delay, refund, failure, keeps, step in zip(
            ids, tokens, delays, refunds, failures, keeps_lost_leases, steps or [None] * len(ids),
            strict=True,
        ):  # fmt: skip
            row = self.tables.settled(job_id, token)
            if row is None:
                lost.append((job_id, token))
                continue
            row.attempts -= refund
            if not keeps:  # it came to an end of its own
                row.lost_leases = 0
            if step is not None:
                row.next_run_at = self.steps.due_at(at, row, step)
            elif delay is not None:
                row.next_run_at = at.clock + microseconds(delay)
            if frees:
                self.tables.free_permits(row)
                row.permits = None
            row.wait()
            if failure:
                row.fail(json.loads(failure), keep=max_errors)
        return lost

    def end_cancelled(
        self, at: Instant, *, ids: list[int], tokens: list[int], hows: list[str],
        seen_seconds: list[float | None], failures: Nulls, timings: list[int | None], max_errors: int,
    ) -> Answer:  # fmt: skip
        lost: Answer = []
        told: Answer = []
        for job_id, token, how, seen, failure in zip(
            ids, tokens, hows, seen_seconds, failures, strict=True
        ):
            row = self.tables.settled(job_id, token, cancelled=True)
            if row is None:
                lost.append((job_id, token))
                continue
            row.attempts -= how == "not_started"
            row.result = None
            self.tables.free_permits(row)
            self.tables.end(row, JobStatus.CANCELLED, at)
            told += [(0, None)] if row.has_children else []
            row.report(at, how=how, seen_seconds=seen)
            if failure:
                row.fail(json.loads(failure), keep=max_errors)
        return lost + told[:1]

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
                held.append((job_id, token, row.cancel is not None))
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
