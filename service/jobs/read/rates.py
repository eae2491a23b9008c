"""What ended when: counts by outcome, start delays and run times, from the counts kept by minute.

Attempts are counted, not jobs: one that is retried twice and then succeeds counts as retried twice and
as succeeded once. Counts are some seconds old: the leader folds what the settles append.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Literal, Self

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import schema_of
from service.errors import InvalidInput
from service.jobs import store
from service.jobs.core.histogram import percentile
from service.jobs.store.rate_series import Span

MAX_POINTS: Final = 1500
"""Limit on the steps of one series: a day by minute is 1,440."""

MAX_TIMED_NAMES: Final = 50
"""Queues or types whose durations are read at once; those beyond have counts alone."""

REST: Final = ""
"""The name of what was counted beyond COUNTED_PAIRS on a day."""


class Window(StrEnum):
    """How far back a page or an alert looks, in steps that fill a chart."""

    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"

    @property
    def step_seconds(self) -> int:
        """A minute, an hour, or three hours: a day and more are read without the counts by minute."""
        return {Window.HOUR: 60, Window.DAY: 3600, Window.WEEK: 10_800}[self]

    @property
    def seconds(self) -> int:
        """Its whole length."""
        return {Window.HOUR: 3600, Window.DAY: 86_400, Window.WEEK: 604_800}[self]

    def since(self, now: datetime) -> datetime:
        """Begin of its first step; the last one has begun, and goes on."""
        step = timedelta(seconds=self.step_seconds)
        return floor_to(now, self.step_seconds) + step - timedelta(seconds=self.seconds)


_STEPS: Final = (("day", 86_400), ("hour", 3600), ("minute", 60))
_FAR: Final = timedelta(days=36_500)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many attempts ended, by outcome; `cancelled` are jobs that did not run."""

    succeeded: int = 0
    retried: int = 0
    dead_lettered: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def attempts(self) -> int:
        """Attempts that came to an end."""
        return self.succeeded + self.failures

    @property
    def failures(self) -> int:
        """Attempts that failed, whatever became of their jobs."""
        return self.retried + self.dead_lettered + self.failed

    @property
    def failure_share(self) -> float | None:
        """Failures of all attempts; None where there were none."""
        return self.failures / self.attempts if self.attempts else None


@dataclass(frozen=True, slots=True)
class Durations:
    """Percentiles in seconds, each off by less than a factor of 1.26, and what they are made of."""

    p50: float
    p95: float
    p99: float
    buckets: Mapping[int, int]
    """Attempts by the number of their bucket, see `core/histogram.py`."""

    @classmethod
    def of(cls, buckets: Mapping[int, int]) -> Self | None:
        """The percentiles; None where nothing was counted."""
        p50, p95, p99 = (percentile(buckets, share) for share in (0.5, 0.95, 0.99))
        if p50 is None or p95 is None or p99 is None:
            return None
        return cls(p50, p95, p99, dict(buckets))


@dataclass(frozen=True, slots=True)
class Rates:
    """What ended in a time: counts, and how long attempts waited and ran, where that was counted."""

    counts: Counts = field(default_factory=Counts)
    start_delay: Durations | None = None
    run_time: Durations | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """What ended in the step that began at `at`."""

    at: datetime
    step_seconds: int
    rates: Rates


async def series(
    session: AsyncSession,
    *,
    since: datetime,
    until: datetime,
    step_seconds: int,
    queue: str | None = None,
    job_type: str | None = None,
) -> list[Point]:
    """What ended in each step from `since` to `until`, oldest first; empty steps as well.

    Args:
        session: read in its transaction.
        since: begin of the first step; rounded down to a multiple of the step.
        until: what began before it is counted.
        step_seconds: a multiple of 60, read from the counts by minute, or of 3,600 (by hour) or 86,400
            (by day), which are kept longer.
        queue: only this queue.
        job_type: only this type.

    Raises:
        InvalidInput: the step is not a whole number of minutes, or the series has over 1,500 steps.
    """
    if step_seconds < 60 or step_seconds % 60:
        raise InvalidInput(f"step_seconds is {step_seconds}: expected a multiple of 60")
    first = floor_to(since, step_seconds)
    begins = list(_begins(first, until, step_seconds))
    kept_by = next(name for name, seconds in _STEPS if step_seconds % seconds == 0)
    await schema_of(session)
    rows = await store.rate_series.series(
        session,
        [Span(kept_by, first, until)],
        step_seconds=step_seconds,
        **_only(queue=queue, job_type=job_type),
    )
    found = rates_by_key(rows)
    return [Point(begin, step_seconds, found.get(begin, Rates())) for begin in begins]


def by_attempts(name: str, found: Rates) -> tuple[int, str]:
    """Most attempts first."""
    return -found.counts.attempts, name


async def totals(
    session: AsyncSession,
    *,
    since: datetime,
    by: Literal["queue", "job_type"],
    queue: str | None = None,
    job_type: str | None = None,
    rank: Callable[[str, Rates], Any] = by_attempts,
    wanted: Callable[[str], bool] = bool,
) -> dict[str, Rates]:
    """What ended from `since` (to the minute) until now, by queue or job type, in the order of `rank`.

    The first `MAX_TIMED_NAMES` for which `wanted` have durations. `REST` names what was counted without
    its name.
    """
    await schema_of(session)
    spans = spans_since(since, now=datetime.now(UTC))
    only = _only(queue=queue, job_type=job_type)
    rows = await store.rate_series.totals(session, spans, by=by, with_durations=False, **only)
    counted = rates_by_key(rows)
    ranked = sorted(
        (name for name in counted if name == REST or wanted(name)),
        key=lambda name: rank(name, counted[name]),
    )
    shown = [name for name in ranked if name != REST][:MAX_TIMED_NAMES]
    only["queues" if by == "queue" else "job_types"] = shown
    rows = await store.rate_series.totals(session, spans, by=by, with_durations=True, **only)
    timed = rates_by_key(rows)
    return {name: timed.get(name, counted[name]) for name in ranked}


async def total(
    session: AsyncSession, *, since: datetime, queue: str | None = None, job_type: str | None = None
) -> Rates:
    """What ended from `since` (to the minute) until now, in all."""
    await schema_of(session)
    rows = await store.rate_series.totals(
        session,
        spans_since(since, now=datetime.now(UTC)),
        by="scope",
        with_durations=True,
        **_only(queue=queue, job_type=job_type),
    )
    return next(iter(rates_by_key(rows).values()), Rates())


def floor_to(moment: datetime, step_seconds: int) -> datetime:
    """The begin of the step that holds this moment: steps begin at multiples of their length since 1970."""
    return datetime.fromtimestamp(moment.timestamp() // step_seconds * step_seconds, UTC)


def spans_since(since: datetime, *, now: datetime) -> list[Span]:
    """The fewest kept counts that hold what ended since: minutes to the hour, hours to the day, days."""
    spans: list[Span] = []
    low = floor_to(since, 60)
    for step, coarser in (("minute", 3600), ("hour", 86_400)):
        high = -(-low.timestamp() // coarser) * coarser
        if high > now.timestamp():
            return [*spans, Span(step, low, now + _FAR)]
        boundary = datetime.fromtimestamp(high, UTC)
        if low < boundary:
            spans.append(Span(step, low, boundary))
        low = boundary
    return [*spans, Span("day", low, now + _FAR)]


def _only(*, queue: str | None, job_type: str | None) -> dict[str, list[str] | None]:
    return {
        "queues": None if queue is None else [queue],
        "job_types": None if job_type is None else [job_type],
    }


def _begins(first: datetime, until: datetime, step_seconds: int) -> Iterable[datetime]:
    number = max(0, -((first - until) // timedelta(seconds=step_seconds)))
    if number > MAX_POINTS:
        raise InvalidInput(
            f"The series has {number} steps: at most {MAX_POINTS} are allowed; take a longer step"
        )
    return (first + timedelta(seconds=step_seconds * place) for place in range(number))


_OUTCOMES: Final = {
    "SUCCESS": "succeeded",
    "RETRIED": "retried",
    "DEAD_LETTER": "dead_lettered",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
}


def rates_by_key(rows: Sequence[Any]) -> dict[Any, Rates]:
    """What rows of `key`, `kind`, `name` and `jobs` say, by their key."""
    outcomes: dict[Any, dict[str, int]] = defaultdict(dict)
    delays: dict[Any, dict[int, int]] = defaultdict(dict)
    runs: dict[Any, dict[int, int]] = defaultdict(dict)
    for row in rows:
        if row.kind == "outcome":
            if row.name in _OUTCOMES:
                outcomes[row.key][_OUTCOMES[row.name]] = row.jobs
        else:
            (delays if row.kind == "delay" else runs)[row.key][int(row.name)] = row.jobs
    return {
        key: Rates(Counts(**counts), Durations.of(delays[key]), Durations.of(runs[key]))
        for key, counts in outcomes.items()
    }
