"""The counts of jobs that routes and pages show: one query at a time in a process."""

from datetime import date
from typing import Self

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from service.api.field_types import UtcTime
from service.api.rates import EXAMPLE_RATES, RatesOut
from service.api.session import deadline_of, settings_of, transaction
from service.api.stats_cache import StatsCache
from service.jobs.core.job import JobStatus
from service.jobs.read.statistics import JobStats, get_job_stats


class DayOut(BaseModel):
    """What ended on one UTC day."""

    model_config = ConfigDict(from_attributes=True)

    day: date = Field(description="The day.")
    by_status: dict[JobStatus, int] = Field(description="Jobs by how they ended.")


class StatsOut(BaseModel):
    """How many jobs there are. Live jobs are counted up to `COUNT_CAP`."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {
                    "as_of": "2026-03-01T09:10:31Z",
                    "total": 1204,
                    "total_exact": True,
                    "by_status": {
                        "PENDING": 3,
                        "RUNNING": 1,
                        "SUCCESS": 1198,
                        "FAILED": 0,
                        "DEAD_LETTER": 2,
                        "CANCELLED": 0,
                    },
                    "by_type": {"send_invoice": 1204},
                    "by_type_rest": 0,
                    "by_queue": {"billing": 1204},
                    "by_queue_rest": 0,
                    "due_now": 1,
                    "oldest_due_seconds": 0.4,
                    "held": 0,
                    "scheduled": 2,
                    "running": 1,
                    "days": [{"day": "2026-03-01", "by_status": {"SUCCESS": 1198}}],
                    "last_hour": EXAMPLE_RATES,
                }
            ]
        },
    )

    @classmethod
    def of(cls, stats: JobStats) -> Self:
        """As they were counted."""
        figures = {name: getattr(stats, name) for name in cls.model_fields}
        return cls.model_validate(figures | {"last_hour": RatesOut.of(stats.last_hour)})

    as_of: UtcTime = Field(description="The time of these counts.")
    total: int = Field(description="All jobs kept.")
    total_exact: bool = Field(
        description="False: there are more live jobs than were counted, and the figures of live jobs "
        "are lower bounds."
    )
    by_status: dict[JobStatus, int] = Field(description="Every status, zeros included.")
    by_type: dict[str, int] = Field(
        description="The 200 job types with the most jobs. If more than 20,000 pairs of queue and type "
        "have ended jobs, only the largest count, and the figures are lower bounds."
    )
    by_type_rest: int = Field(description="Jobs of all other types.")
    by_queue: dict[str, int] = Field(
        description="The 200 queues with the most jobs; counted as `by_type`."
    )
    by_queue_rest: int = Field(description="Jobs of all other queues.")
    due_now: int = Field(description="PENDING jobs that are due.")
    oldest_due_seconds: float | None = Field(
        description="How long the longest-waiting job has been due; null: none waits."
    )
    held: int = Field(
        description="PENDING jobs that are held: for a limit on running jobs, a rate, or jobs that they "
        "come after."
    )
    scheduled: int = Field(description="PENDING jobs that are due later, and not held.")
    running: int = Field(description="RUNNING jobs.")
    days: list[DayOut] = Field(
        description="The jobs that ended on each of the last 7 days, latest first."
    )
    last_hour: RatesOut = Field(
        description="What ended in the last hour, from counts by minute: `/admin/jobs/rates` has more."
    )


async def job_stats(request: Request) -> JobStats:
    """How many jobs there are; at most a second old."""
    cache: StatsCache = request.app.state.stats_cache

    async def query() -> JobStats:
        async with transaction(request, own_deadline=True) as session:
            return await get_job_stats(session, cap=settings_of(request).count_cap)

    return await cache.get(query, deadline=deadline_of(request))
