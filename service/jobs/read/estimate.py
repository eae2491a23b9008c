"""When a waiting job starts, about, and when its queue is empty: from what ended in the last minutes."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs import store
from service.jobs.core.holds import QUEUE, RATE
from service.jobs.core.queue_limits import Rate
from service.jobs.read import rates

RECENT_SECONDS: Final = 600
"""How far back a rate looks: an older one says little of now."""

MIN_SECONDS: Final = 10.0
"""The shortest time that a rate is made of: counts are some seconds old."""

RUN_TIME_SECONDS: Final = 3600
"""How far back run times of a type are looked for."""

MAX_DUE: Final = 10_000
"""Due jobs of a queue that are counted, of all its priorities together."""

MAX_SECONDS: Final = 10 * 365 * 86_400
"""What takes longer is never."""


@dataclass(frozen=True, slots=True)
class Before:
    """How many jobs go first; not `exact`: at least so many."""

    jobs: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """When a job starts, and how long until nothing is due in its queue; None: nobody can know."""

    start_at: datetime | None
    drain_seconds: float | None
    exact: bool
    """False: more jobs wait than were counted, so that both are the least that it takes."""
    based_on: str
    """In words."""


@dataclass(frozen=True, slots=True)
class RecentRate:
    """How fast a queue has been lately."""

    attempts: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Attempts that ended a second."""
        return self.attempts / self.seconds


async def recent_rate(session: AsyncSession, queue: str, *, now: datetime) -> RecentRate | None:
    """Attempts that ended since the first of the last ten minutes in which one did; None: none did."""
    points = await rates.series(
        session,
        since=now - timedelta(seconds=RECENT_SECONDS),
        until=now,
        step_seconds=60,
        queue=queue,
    )
    counted = [point for point in points if point.rates.counts.attempts]
    if not counted:
        return None
    attempts = sum(point.rates.counts.attempts for point in counted)
    return RecentRate(attempts, max(MIN_SECONDS, (now - counted[0].at).total_seconds()))


async def by_rate(
    session: AsyncSession, queue: str, *, now: datetime, before: Before | None
) -> Estimate | None:
    """What the recent rate of the queue promises.

    Args:
        session: read in its transaction.
        queue: the job's.
        now: what the start is counted from.
        before: jobs that go before it; None: only the time to drain is told.
    """
    rate = await recent_rate(session, queue, now=now)
    if rate is None:
        return None
    due = await _waiting(session, queue, held_for=QUEUE + queue)
    return Estimate(
        start_at=None if before is None else _after(now, (before.jobs + 1) / rate.per_second),
        drain_seconds=due.jobs / rate.per_second,
        exact=due.exact and (before is None or before.exact),
        based_on=f"{rate.attempts} attempts of the queue {queue} ended in the last "
        f"{_minutes(rate.seconds)}",
    )


async def by_turns(
    session: AsyncSession, job_type: str, *, now: datetime, before: Before, at_once: int
) -> Estimate | None:
    """When its turn comes where so many may run at once, by how long its type runs; None: not known."""
    found = await rates.total(
        session, since=now - timedelta(seconds=RUN_TIME_SECONDS), job_type=job_type
    )
    if found.run_time is None or at_once < 1:
        return None
    seconds = found.run_time.p50
    turns = before.jobs // at_once + 1
    return Estimate(
        start_at=_after(now, turns * seconds),
        drain_seconds=None,
        exact=before.exact,
        based_on=f"{at_once} at once, and jobs of type {job_type} ran for {seconds:.3g} s (median of "
        "the last hour)",
    )


async def by_limit(
    session: AsyncSession, queue: str, *, rate: Rate, now: datetime, before: Before
) -> Estimate:
    """When its turn comes under the rate of its queue, after those that are held for it before."""
    seconds = rate.per_seconds / rate.limit
    waiting = await _waiting(session, queue, held_for=RATE + queue)
    return Estimate(
        start_at=_after(now, (before.jobs + 1) * seconds),
        drain_seconds=waiting.jobs * seconds,
        exact=before.exact and waiting.exact,
        based_on=f"{words_of(rate)} may start",
    )


def words_of(rate: Rate) -> str:
    """`100 jobs in 60 s`."""
    jobs = "1 job" if rate.limit == 1 else f"{rate.limit} jobs"
    return f"{jobs} in {rate.per_seconds:g} s"


def at_its_time(due_at: datetime) -> Estimate:
    """A job that waits for its time alone starts then."""
    return Estimate(due_at, None, exact=True, based_on="when it is due")


async def _waiting(session: AsyncSession, queue: str, *, held_for: str) -> Before:
    """Due jobs of the queue, and those that are held for its limit or rate."""
    held, exact = await store.waiting.held_for(session, held_for, cap=MAX_DUE)
    heads = await store.queue_counts.heads_of(session, queue)
    if not heads:
        return Before(held, exact)
    cap = MAX_DUE // len(heads)
    count = (await store.queue_counts.live(session, heads, cap=cap))[queue]
    return Before(count.due + held, exact=exact and count.due + count.running < cap)


def _after(now: datetime, seconds: float) -> datetime | None:
    return now + timedelta(seconds=seconds) if seconds < MAX_SECONDS else None


def _minutes(seconds: float) -> str:
    minutes = round(seconds / 60)
    return "minute" if minutes <= 1 else f"{minutes} minutes"
