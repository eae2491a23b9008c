"""Rates: how many jobs may start now, and the times reserved for the next, as the statements reckon them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from service.jobs.core.holds import RATE, key_of_rate, rate_of
from tests.simulation.rows import Answer, Instant, QueueRow, Tables, microseconds


class Starts(NamedTuple):
    """What a rate allows at one moment; times are microseconds."""

    ahead: float
    apart: float
    burst: float

    @property
    def free(self) -> int:
        if self.ahead > 0:
            return 0
        return int(min(self.burst, math.floor(-self.ahead / self.apart) + 1))

    def after(self, jobs: int) -> float:
        """How far the reserved time is ahead once so many have started."""
        past = -math.floor((self.burst - 1) * self.apart)
        return max(self.ahead, past) + math.ceil(jobs * self.apart)


def queue_of(name: str) -> str:
    """The queue of a rate; here none has a name that is escaped."""
    return name.removeprefix(RATE).partition("/")[0]


class Rates:
    """The rates of queues and of their keys, by their names."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def starts(self, at: Instant, queue: str, name: str) -> Starts | None:
        """What a rate of the queue allows, as if no job had come under it where it has no row; None: it is none."""
        row = self._tables.queues.get(queue, QueueRow())
        limit, seconds, burst = row.rate_limit, row.rate_seconds, row.rate_burst
        if key_of_rate(name) is not None:
            limit, seconds, burst = row.key_rate_limit, row.key_rate_seconds, row.key_rate_burst
        if not limit or not seconds:
            return None
        default = max(1, math.ceil(limit / seconds))
        next_at = self._tables.rates.get(name, 0)
        return Starts(next_at - at.now, seconds * 1e6 / limit, default if burst is None else burst)

    def names_of(self, at: Instant, queue: str, key: str | None) -> list[str]:
        """The rates that such a job comes under: that of its key first."""
        names = [rate_of(queue)] if key is None else [rate_of(queue, key), rate_of(queue)]
        return [name for name in names if self.starts(at, queue, name) is not None]

    def free(self, at: Instant, queue: str, name: str) -> int | None:
        """How many may start; None where the rate has no row yet."""
        if name not in self._tables.rates:
            return None
        starts = self.starts(at, queue, name)
        assert starts is not None
        return starts.free

    def started(self, at: Instant, queue: str, name: str, jobs: int) -> None:
        """Reserve the times of those that start."""
        starts = self.starts(at, queue, name)
        assert starts is not None
        self._tables.rates[name] = at.now + round(starts.after(jobs))

    def make(self, at: Instant, *, queues: Sequence[str], keys: Sequence[str | None]) -> Answer:
        for queue, key in zip(queues, keys, strict=True):
            for name in self.names_of(at, queue, key):
                self._tables.rates.setdefault(name, 0)
        return []

    def queue_starts(self, at: Instant) -> Answer:
        known = {name: self.starts(at, name, rate_of(name)) for name in self._tables.queues}
        return [(name, starts.free) for name, starts in known.items() if starts is not None]

    def turn(self, at: Instant, held_for: str, queue: str, *, holds: bool) -> tuple[object, ...]:
        starts = self.starts(at, queue, held_for)
        if starts is None:
            return held_for, holds, None, None, None
        spare = (starts.burst - 1) * starts.apart / 1e6
        return held_for, holds, starts.free, starts.after(starts.free) / 1e6, spare

    def drop_idle(self, at: Instant, *, idle_seconds: float, limit: int) -> Answer:
        old = [
            name
            for name, next_at in sorted(self._tables.rates.items())
            if next_at < at.now - microseconds(idle_seconds)
            and self._is_full(self.starts(at, queue_of(name), name))
        ]
        for name in old[:limit]:
            del self._tables.rates[name]
        return [(len(old[:limit]),)]

    @staticmethod
    def _is_full(starts: Starts | None) -> bool:
        return starts is None or starts.ahead <= -(starts.burst - 1) * starts.apart
