"""How many jobs there are: finished ones from the kept counts, live ones counted, up to a cap."""

from dataclasses import dataclass
from datetime import UTC, date, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import schema_of
from service.jobs import store
from service.jobs.core.job import JobStatus
from service.jobs.read import rates


@dataclass(frozen=True, slots=True)
class DayCounts:
    """What ended on one UTC day, and is still kept."""

    day: date
    by_status: dict[JobStatus, int]


@dataclass(frozen=True, slots=True)
class JobStats:
    """Counts of one moment. Where `total_exact` is false, live jobs were counted up to the cap."""

    as_of: datetime
    total: int
    total_exact: bool
    by_status: dict[JobStatus, int]
    by_type: dict[str, int]
    by_type_rest: int
    by_queue: dict[str, int]
    by_queue_rest: int
    due_now: int
    oldest_due_seconds: float | None
    held: int
    """PENDING jobs that wait for a limit, a rate or other jobs."""
    scheduled: int
    """PENDING jobs that wait for their time."""
    running: int
    days: list[DayCounts]
    last_hour: rates.Rates
    """What ended in the last hour, from the counts kept by minute."""


async def get_job_stats(session: AsyncSession, *, cap: int = 10_000) -> JobStats:
    """How many jobs there are, by status, type, queue and day, and how long the oldest waits.

    Args:
        session: read in its transaction, the rest of which is planned by the order of indexes.
        cap: limit on the live jobs counted. Over it `total_exact` is false, and every figure on
            live jobs is at least so much.
    """
    await schema_of(session)
    await store.listing.plan_by_index(session)
    rows = await store.statistics.counts(session, cap=cap)
    as_of, oldest_due_seconds = await store.statistics.oldest_due(session)
    # Deltas of the kept counts may be negative, never their sum; a hand that deleted rows by SQL
    # could make it so, and a count below zero would help nobody.
    statuses = {row.name: row for row in rows if row.kind == "status"}
    by_status = {
        status: max(0, statuses[status].jobs) if status in statuses else 0 for status in JobStatus
    }
    live = sum(row.live for row in statuses.values())
    due = sum(row.due for row in statuses.values())
    held = sum(row.held for row in statuses.values())
    by_type = {row.name: row.jobs for row in rows if row.kind == "type"}
    by_queue = {row.name: row.jobs for row in rows if row.kind == "queue"}
    total = sum(by_status.values())
    days: dict[date, dict[JobStatus, int]] = {}
    for row in rows:
        if row.kind == "day" and row.name in JobStatus.__members__:
            days.setdefault(row.day, {})[JobStatus(row.name)] = max(0, row.jobs)
    return JobStats(
        as_of=as_of.astimezone(UTC),
        total=total,
        total_exact=live <= cap,
        by_status=by_status,
        by_type=by_type,
        by_type_rest=max(0, total - sum(by_type.values())),
        by_queue=by_queue,
        by_queue_rest=max(0, total - sum(by_queue.values())),
        due_now=due,
        oldest_due_seconds=oldest_due_seconds,
        held=held,
        scheduled=by_status[JobStatus.PENDING] - due - held,
        running=by_status[JobStatus.RUNNING],
        last_hour=await rates.total(session, since=rates.Window.HOUR.since(datetime.now(UTC))),
        days=[DayCounts(day, days[day]) for day in sorted(days, reverse=True)],
    )
