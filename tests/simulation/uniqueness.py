"""Jobs with unique keys, statement by statement."""

from datetime import datetime
from itertools import zip_longest
from typing import Any

from service.jobs.core.dependencies import AFTER
from service.jobs.core.holds import UNIQUE
from service.jobs.core.job import JobStatus
from tests.simulation.actors import Actors, due_at
from tests.simulation.rows import (
    INFINITY,
    Answer,
    Instant,
    Row,
    Tables,
    entry,
    microseconds,
    moment,
)


class Uniqueness:
    """Changes the holders of keys, frees keys, and lets jobs go that waited for others."""

    def __init__(self, tables: Tables, actors: Actors) -> None:
        self.tables = tables
        self._actors = actors

    def enqueue_waiting(self, at: Instant, **columns: list[Any]) -> Answer:
        answer: Answer = []
        for values in zip_longest(*columns.values()):
            given = dict(zip(columns, values, strict=True))
            until_start = given.pop("unique_until_start")
            if self._holder(given["unique_key"]) is not None:
                self.tables.last_job_id += 1  # PostgreSQL has taken one before it sees the key
                continue
            row = self._actors.insert(at, **given)
            row.unique_until_start = until_start
            row.held_for, row.held_since, row.held_due_at = UNIQUE, at.clock, row.next_run_at
            row.next_run_at = INFINITY
            answer.append((row.id, moment(at.clock), moment(row.held_due_at), row.unique_key))
        return answer

    def replace_holder(
        self, at: Instant, *, unique_key: str, job_type: str, **values: Any
    ) -> Answer:
        holder = self._holder(unique_key)
        return self._replace(at, holder, job_type, unique_key=unique_key, **values)

    def replace_latest(
        self, at: Instant, *, unique_key: str, job_type: str, **values: Any
    ) -> Answer:
        waiting = [row for row in self.tables.live() if row.status is JobStatus.PENDING]
        held = [row for row in waiting if row.unique_key == unique_key]
        started = [row for row in waiting if row.unique_until_start == unique_key]
        newest = sorted(started, key=lambda row: -row.id)
        latest = next(iter([*held, *newest]), None)
        return self._replace(at, latest, job_type, unique_key=unique_key, **values)

    def _replace(
        self, at: Instant, row: Row | None, job_type: str, *, unique_key: str,
        run_at: datetime | None, delay_seconds: float, payload: str, queue: str, priority: int,
        max_retries: int | None, timeout_seconds: float | None, backoff: str | None,
        concurrency_key: str | None, unique_until_start: str | None,
        **_owed: Any,  # its jobs have no callback and no time for their results
    ) -> Answer:  # fmt: skip
        if row is None or row.status is not JobStatus.PENDING or row.job_type != job_type:
            return []
        self._make_due(self.tables.change(row), due_at(at, run_at, delay_seconds))
        row.payload, row.queue, row.priority = payload, queue, priority
        row.max_retries, row.timeout_seconds, row.backoff = max_retries, timeout_seconds, backoff
        row.unique_until_start, row.concurrency_key = unique_until_start, concurrency_key
        row.attempts = row.lost_leases = 0
        row.last_error = None
        return [_answer(row)]

    def extend_holder(
        self, at: Instant, *, unique_key: str, job_type: str, run_at: datetime | None,
        delay_seconds: float, debounce_max_seconds: float,
    ) -> Answer:  # fmt: skip
        row = self._holder(unique_key)
        if row is None or row.status is not JobStatus.PENDING or row.job_type != job_type:
            return []
        latest = row.created_at + microseconds(debounce_max_seconds)
        due = min(due_at(at, run_at, delay_seconds), latest)
        self._make_due(self.tables.change(row), max(_due(row), due))
        return [_answer(row)]

    def give_up_key(self, _: Instant, *, job_id: int, token: int) -> Answer:
        row = self.tables.held(job_id, token)
        if row is not None and row.unique_until_start is not None:
            row.unique_key = None
        return []

    def start_next(self, at: Instant, *, keys: list[str], limit: int) -> Answer:
        return self._start(at, [row for row in self._waiting() if row.unique_key in keys], limit)

    def start_all_next(self, at: Instant, *, limit: int) -> Answer:
        return self._start(at, self._waiting(), limit)

    def _start(self, at: Instant, waiting: list[Row], limit: int) -> Answer:
        ready = [row for row in waiting if not self._before(row)][:limit]
        for row in ready:
            due = _due(self.tables.change(row))
            row.next_run_at = max(due, at.clock)
            row.held_for = row.held_since = row.held_due_at = None
        return [(row.id, row.queue, row.priority, moment(row.next_run_at)) for row in ready]

    def supersede(self, at: Instant, *, limit: int, max_errors: int) -> Answer:
        pairs = [
            (old, row)
            for row in self._waiting()
            for old in self._before(row)
            if old.status is JobStatus.PENDING
        ]
        for old, _ in sorted(pairs, key=lambda pair: pair[0].id)[:limit]:
            self.tables.change(old).note(
                entry("superseded", old.attempts, None, None) | {"by": None}, keep=max_errors
            )
            self.tables.end(old, JobStatus.CANCELLED, at)
            old.lease_token = old.worker_id = None
        return [(old.id, old.job_type) for old, _ in pairs[:limit]]

    def _waiting(self) -> list[Row]:
        rows = [row for row in self.tables.live() if row.held_for == UNIQUE]
        return sorted(rows, key=lambda row: row.id)

    def _before(self, row: Row) -> list[Row]:
        """The live jobs that had its key until they started."""
        return [
            other
            for other in self.tables.live()
            if other.unique_until_start == row.unique_key and other is not row
        ]

    def _holder(self, unique_key: str | None) -> Row | None:
        return next((row for row in self.tables.live() if row.unique_key == unique_key), None)

    def _make_due(self, row: Row, due: int) -> None:
        if row.held_for in {AFTER, UNIQUE}:
            row.held_due_at = due
        else:
            row.next_run_at = due
            row.held_for = row.held_since = row.held_due_at = None


def _due(row: Row) -> int:
    return row.next_run_at if row.held_due_at is None else row.held_due_at


def _answer(row: Row) -> tuple[Any, ...]:
    return row.id, moment(row.created_at), moment(_due(row))
