"""Permits: who is admitted, who is held, and who is claimed from a hold, statement by statement."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from service.jobs.core.holds import KEY, QUEUE, RATE, key_of_rate
from service.jobs.core.job import JobStatus
from tests.simulation.claims import Claims
from tests.simulation.rates import Rates, queue_of
from tests.simulation.rows import INFINITY, MICROSECONDS, Answer, Instant, QueueRow, Row, Tables


@dataclass(slots=True)
class _Asked:
    row: Row
    token: int
    key: str | None
    queue: str | None
    limits: list[tuple[str | None, int | None]]
    has: bool
    key_allows: bool | None = None
    has_permits: bool | None = None
    admitted: bool | None = None
    rates: list[str] = field(default_factory=list)
    """The rates that its start comes under."""
    held_by_rate: str | None = None

    @property
    def held_for(self) -> str | None:
        """What keeps one that is not admitted."""
        if self.has_permits:
            return self.held_by_rate
        return self.key if self.key_allows is False else self.queue


class Permits:
    """Grants permits, holds jobs, and claims those that are held."""

    def __init__(self, tables: Tables, claims: Claims) -> None:
        self.tables = tables
        self._claims = claims
        self.rates = Rates(tables)

    def admit(
        self, at: Instant, *, ids: list[int], tokens: list[int], key_limits: list[int | None]
    ) -> Answer:
        limits: dict[str, int] = {}
        asked = [
            self._asked(self.tables.jobs[job_id], token, limit, limits)
            for job_id, token, limit in zip(ids, tokens, key_limits, strict=True)
            if job_id in self.tables.jobs and self.tables.jobs[job_id].holds(token)
        ]
        self._judge(asked, limits, at)
        return [self._decide(one, asked, at) for one in asked]

    def _judge(self, asked: list[_Asked], limits: dict[str, int], at: Instant) -> None:
        """Decide who is admitted, in this order."""
        free = {
            key: limit - self.tables.permits[key][1]
            for key, limit in limits.items()
            if key in self.tables.permits
        }
        ranks: Counter[Any] = Counter()
        for one in asked:
            ranks[one.has, one.key] += 1
            one.key_allows = (
                one.has or one.key is None or _within(ranks[one.has, one.key], free.get(one.key))
            )
        ranks.clear()
        for one in asked:
            place = one.has, one.key_allows, one.queue
            ranks[place] += 1
            queue_allows = (
                one.has or one.queue is None or _within(ranks[place], free.get(one.queue))
            )
            one.admitted = one.has_permits = _both(one.key_allows, queue_allows)
        self._rated(asked, at)

    def _rated(self, asked: list[_Asked], at: Instant) -> None:
        """Of those that have permits the rates of their keys, then of their queues, let some start."""
        ready = [one for one in asked if one.admitted and not one.has and one.row.cancel is None]
        for one in ready:
            one.rates = self.rates.names_of(at, one.row.queue, one.row.concurrency_key)
        for of_keys in (True, False):
            ranks: Counter[str] = Counter()
            for one in ready:
                for name in one.rates:
                    if (key_of_rate(name) is not None) is of_keys and one.admitted:
                        ranks[name] += 1
                        free = self.rates.free(at, one.row.queue, name)
                        one.admitted = _within(ranks[name], free)
                        one.held_by_rate = name if one.admitted is False else None
        started = Counter(
            (one.row.queue, name) for one in ready if one.admitted for name in one.rates
        )
        for (queue, name), jobs in started.items():
            self.rates.started(at, queue, name, jobs)

    def _asked(self, row: Row, token: int, key_limit: int | None, limits: dict[str, int]) -> _Asked:
        max_running, per_key = self._limits_of(row.queue)
        least = min((limit for limit in (key_limit, per_key) if limit is not None), default=None)
        has = row.permits is not None
        key = None
        if least is not None and row.concurrency_key is not None and row.cancel is None:
            key = KEY + row.concurrency_key
        queue = None if max_running is None or row.cancel else QUEUE + row.queue
        if not has:
            for name, limit in ((key, least), (queue, max_running)):
                if name is not None and limit is not None:
                    limits[name] = min(limit, limits.get(name, limit))
        return _Asked(row, token, key, queue, [(key, least), (queue, max_running)], has)

    def _decide(self, one: _Asked, asked: list[_Asked], at: Instant) -> tuple[Any, ...]:
        row, held_for = one.row, None
        if one.admitted is not None and not one.has:
            self.tables.change(row)
            if one.admitted:
                row.permits = self._granted(one, asked)
                row.held_for = row.held_since = row.held_due_at = None
            else:
                held_for = one.held_for
                self._hold(row, held_for, at)
                row.attempts -= 1
                row.wait()
        return row.id, one.token, one.admitted, row.permits, held_for, row.cancel is not None

    def _granted(self, one: _Asked, asked: list[_Asked]) -> list[str] | None:
        """Count the permits of one that is admitted; its permits."""
        counted = [name for name in (one.key, one.queue) if name]
        for name in counted:
            self.tables.permits[name][1] += 1
            self.tables.permits[name][0] = min(
                given
                for other in asked
                if other.admitted and not other.has
                for held, given in other.limits
                if held == name and given is not None
            )
        return [*counted, *one.rates] or None

    @staticmethod
    def _hold(row: Row, held_for: str | None, at: Instant) -> None:
        row.held_for, row.held_due_at = held_for, row.next_run_at
        row.held_since = at.now if row.held_since is None else row.held_since
        row.next_run_at = INFINITY

    def claim_limited(
        self, at: Instant, *, limited_types: list[str], type_limits: list[int], lease_seconds: float,
        worker_id: int, max_errors: int, **due: Any,
    ) -> Answer:  # fmt: skip
        of_types = dict(zip(limited_types, type_limits, strict=True))
        rows = self._claims.due_within_limits(at, **due)
        rows.sort(key=lambda row: (row.priority, row.next_run_at, row.id))
        limits: dict[str, int] = {}
        asked = [self._asked(row, 0, of_types.get(row.job_type), limits) for row in rows]
        self._judge(asked, limits, at)
        held = [
            one for one in asked if one.admitted is False and one.row.status is JobStatus.PENDING
        ]
        claimed = [one for one in asked if one not in held]
        permits = {
            one.row.id: one.row.permits if one.has
            else self._granted(one, asked) if one.admitted
            else None
            for one in claimed
        }  # fmt: skip
        leased = self._claims.lease(
            [one.row for one in claimed], at, lease_seconds, worker_id, max_errors, permits=permits
        )
        for one in claimed:
            if one.admitted:
                one.row.held_since = None
        for one in held:
            self._hold(self.tables.change(one.row), one.held_for, at)
        return [
            *((*answer, None) for answer in leased),
            *(
                (row.id, row.lease_token, row.queue, row.job_type, row.priority, row.attempts,
                 None, None, 0, (row.held_due_at or 0) / MICROSECONDS, 0.0, "", None, False,
                 row.cancel is not None, row.concurrency_key, None, None, row.held_for)
                for row in [one.row for one in held]
            ),
        ]  # fmt: skip

    def make_permits(self, _: Instant, *, keys: list[str], queues: list[str]) -> Answer:
        for name in [KEY + key for key in keys] + [QUEUE + queue for queue in queues]:
            self.tables.permits.setdefault(name, [None, 0])
        return []

    def claim_held(
        self, at: Instant, *, holds: list[str], job_types: list[str], queues: list[str] | None,
        left_out: list[str], limited_types: list[str], type_limits: list[int], limit: int,
        lease_seconds: float, worker_id: int,
    ) -> Answer:  # fmt: skip
        limits = dict(zip(limited_types, type_limits, strict=True))
        taken: list[Row] = []
        for held_for in holds:
            fit = [
                row
                for row in self._held_for(held_for)
                if row.status is JobStatus.PENDING and row.next_run_at == INFINITY
                and row.job_type in job_types
                and row.queue not in left_out and (queues is None or row.queue in queues)
            ]  # fmt: skip
            if not fit:
                continue
            free = self._free(held_for, fit[0], limits, at, otherwise=limit)
            taken += fit[: max(min(free, limit), 0)]
        return self._claims.lease(taken[:limit], at, lease_seconds, worker_id, 0, held=True)

    def turns(self, at: Instant, *, holds: list[str]) -> Answer:
        """When the next jobs may start under rates that hold some, or have a row."""
        held = [(name, self._held_for(name)) for name in holds]
        return [
            self.rates.turn(at, name, rows[0].queue if rows else queue_of(name), holds=bool(rows))
            for name, rows in held
            if rows or name in self.tables.rates
        ]

    def _free(
        self, held_for: str, first: Row, limits: dict[str, int], at: Instant, *, otherwise: int
    ) -> int:
        if held_for.startswith(RATE):
            starts = self.rates.starts(at, first.queue, held_for)
            return otherwise if starts is None else starts.free
        max_running, per_key = self._limits_of(first.queue)
        known = [limit for limit in (limits.get(first.job_type), per_key) if limit is not None]
        limit = max_running if held_for.startswith(QUEUE) else min(known, default=None)
        running = self.tables.permits.get(held_for, [None, 0])[1]
        return otherwise if limit is None else limit - running

    def _held_for(self, held_for: str) -> list[Row]:
        held = [row for row in self.tables.live() if row.held_for == held_for]
        return sorted(held, key=lambda row: (row.priority, row.held_due_at or 0, row.id))

    def holds(self, _: Instant, *, after: str, limit: int) -> Answer:
        found = sorted({row.held_for for row in self.tables.live() if row.held_for is not None})
        return [(name,) for name in found if name > after][:limit]

    def queue_permits(self, _: Instant) -> Answer:
        return [
            (name, queue.max_running - self.tables.permits.get(QUEUE + name, [None, 0])[1])
            for name, queue in self.tables.queues.items()
            if queue.max_running is not None
        ]

    def _limits_of(self, queue: str) -> tuple[int | None, int | None]:
        found = self.tables.queues.get(queue, QueueRow())
        return found.max_running, found.max_running_per_key

    def unhold_first(self, at: Instant, *, held_for: str) -> Answer:
        waiting = [row for row in self._held_for(held_for) if row.status is JobStatus.PENDING]
        for row in waiting[:1]:
            self.tables.change(row)
            row.next_run_at = at.now if row.held_due_at is None else row.held_due_at
            row.held_for = row.held_due_at = None
        return [(row.id,) for row in waiting[:1]]

    def repair(self, _: Instant) -> Answer:
        actual = Counter(key for row in self.tables.live() for key in row.permits or ())
        wrong = [
            (key, actual[key] - count[1])
            for key, count in self.tables.permits.items()
            if actual[key] != count[1]
        ]
        for key, difference in wrong:
            self.tables.permits[key][1] += difference
        return wrong


def _within(rank: int, free: int | None) -> bool | None:
    return None if free is None else rank <= free


def _both(one: bool | None, other: bool | None) -> bool | None:
    """AND of SQL."""
    if one is False or other is False:
        return False
    return None if one is None or other is None else True
