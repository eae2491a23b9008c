"""Limits and rates in a simulation: who sets them, and what jobs may run by our own reckoning.

Everything is drawn apart from the scenario: half of the seeds know no limits, half no rates.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

from service.jobs import NewJob
from service.jobs.core.job import JobStatus
from tests.simulation.rows import Change, QueueRow, Row, Tables

KEYS: Final = (None, "x", "x", "y")
QUEUES: Final = ("a", "b")

Rate = tuple[int | None, float | None, int | None]
NO_RATE: Final[Rate] = (None, None, None)
RATES: Final[tuple[Rate, ...]] = (
    (1, 1.0, None),
    (1, 0.5, 3),
    (4, 1.0, None),
    (4, 2.0, 1),
    (2, 1.0, 5),
)
"""Jobs, seconds, burst. None is slow: what is enqueued ends within the time of a seed."""

_ROUNDED: Final = 0.001
"""Times are whole microseconds."""


class Limits:
    """What operators and handlers of one seed limit."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"limits {seed}")
        self.on = self._rng.random() < 0.5
        self._rates_rng = random.Random(f"rates {seed}")
        self.rates_on = self._rates_rng.random() < 0.5
        self._fairness = random.Random(f"fairness {seed}")
        self._fair = self._fairness.random() < 0.5
        """Whether queues choose now and then that their keys take turns."""
        self.of_types: dict[str, int] = {}
        """How many jobs with one key handlers of each type allow."""
        if self.on and self._rng.random() < 0.7:
            self.of_types = {"work": self._rng.choice((1, 2)), "thread": 1}

    def give_keys(self, jobs: Sequence[NewJob]) -> None:
        """Give some of these jobs concurrency keys."""
        if self.on or self.rates_on:
            rng = self._rng if self.on else self._rates_rng
            for job in jobs:
                job.concurrency_key = rng.choice(KEYS)

    def change(self, tables: Tables) -> bool:
        """An operator sets, raises, lowers or lifts a limit or a rate of a queue, or does not."""
        return self._change_rate(tables) | self._change_limit(tables)

    def _change_rate(self, tables: Tables) -> bool:
        rng = self._rates_rng
        if not self.rates_on or rng.random() < 0.5:
            return False
        queue = tables.queues.setdefault(rng.choice(QUEUES), QueueRow())
        rate = rng.choice((NO_RATE, *RATES))
        if rng.random() < 0.5:
            queue.rate_limit, queue.rate_seconds, queue.rate_burst = rate
        else:
            queue.key_rate_limit, queue.key_rate_seconds, queue.key_rate_burst = rate
        return True

    def _change_limit(self, tables: Tables) -> bool:
        if not self.on or self._rng.random() < 0.7:
            return False
        queue = tables.queues.setdefault(self._rng.choice(QUEUES), QueueRow())
        if self._rng.random() < 0.6:
            queue.max_running = self._rng.choice((None, 1, 1, 2, 3))
        else:
            queue.max_running_per_key = self._rng.choice((None, 1, 2))
        if self._fair:
            queue.key_fairness = self._fairness.random() < 0.7
        return True


class PermitLedger:
    """Which jobs hold permits: from their admission until they stop to be RUNNING."""

    def __init__(self, limits: Limits, tables: Tables, violate: Callable[[str], None]) -> None:
        self._limits = limits
        self._tables = tables
        self._violate = violate
        self._holders: defaultdict[str, set[int]] = defaultdict(set)

    def changed(self, change: Change) -> None:
        """A statement changed a job: one that does not run holds nothing."""
        before, after = change.before, change.after
        if before is not None and (after is None or after.status is not JobStatus.RUNNING):
            for holders in self._holders.values():
                holders.discard(before.id)

    def admitted(self, row: Row) -> None:
        """ADMIT let a job run: no more do than the limits of this moment allow."""
        if row.cancel is not None:
            return
        for name, limit in self._of(row).items():
            holders = self._holders[name]
            holders.add(row.id)
            if len(holders) > limit:
                self._violate(f"{sorted(holders)} run under {name}, whose limit is {limit}")

    def must_hold(self, row: Row) -> None:
        """A job begins to run: where its type has a limit for each key, it has been admitted."""
        key, limit = row.concurrency_key, self._limits.of_types.get(row.job_type)
        if key is not None and limit is not None and row.id not in self._holders[f"key:{key}"]:
            self._violate(f"job {row.id} runs without a permit for {key}")

    def must_be_free(self) -> None:
        """Nothing runs any more: every permit is free, in the table too."""
        kept = {name: count[1] for name, count in self._tables.permits.items() if count[1]}
        held = {name: holders for name, holders in self._holders.items() if holders}
        if kept or held:
            self._violate(f"permits are taken at the end: {kept}, {held}")

    def _of(self, row: Row) -> dict[str, int]:
        queue = self._tables.queues.get(row.queue, QueueRow())
        per_key = [
            limit
            for limit in (self._limits.of_types.get(row.job_type), queue.max_running_per_key)
            if limit is not None
        ]
        limits: dict[str, int] = {}
        if per_key and row.concurrency_key is not None:
            limits[f"key:{row.concurrency_key}"] = min(per_key)
        if queue.max_running is not None:
            limits[f"queue:{row.queue}"] = queue.max_running
        return limits


class RateLedger:
    """When jobs started under rates: within any time no more than the burst and what the rate allows.

    Reckoned as buckets that leak, one for each rate as it was set last; none knows of reserved times.
    """

    def __init__(self, tables: Tables, violate: Callable[[str], None]) -> None:
        self._tables = tables
        self._violate = violate
        self._filled: dict[tuple[str, str | None, Rate], tuple[float, float]] = {}
        """How full each bucket is, and since when (seconds of the database)."""
        self.starts = 0

    def admitted(self, row: Row, now: float) -> None:
        """ADMIT let a job start: in no bucket is more than fits."""
        if row.cancel is not None:
            return
        for name, rate in self._of(row):
            limit, seconds, burst = rate
            if not limit or not seconds:
                continue
            self.starts += 1
            for old in [other for other in self._filled if other[:2] == name and other[2] != rate]:
                del self._filled[old]
            level, at = self._filled.get((*name, rate), (0.0, now))
            level = max(0.0, level - (now - at) * limit / seconds) + 1
            self._filled[*name, rate] = level, now
            if level > (burst or max(1, math.ceil(limit / seconds))) + _ROUNDED:
                self._violate(f"job {row.id} of {name} started too early for {rate}: {level:.3f}")

    def _of(self, row: Row) -> list[tuple[tuple[str, str | None], Rate]]:
        queue = self._tables.queues.get(row.queue, QueueRow())
        rates: list[tuple[tuple[str, str | None], Rate]] = [
            ((row.queue, None), (queue.rate_limit, queue.rate_seconds, queue.rate_burst))
        ]
        if row.concurrency_key is not None:
            of_keys = queue.key_rate_limit, queue.key_rate_seconds, queue.key_rate_burst
            rates.append(((row.queue, row.concurrency_key), of_keys))
        return rates
