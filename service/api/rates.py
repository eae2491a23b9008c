"""`GET /admin/jobs/rates`: what ended lately, by time, queue and job type."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self

from fastapi import APIRouter, Query, Security
from pydantic import BaseModel, ConfigDict, Field

from service.api.field_types import UtcTime
from service.api.guarded import GuardedRoute
from service.api.job_query import Text
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import Session
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.jobs.read import rates
from service.jobs.read.rates import REST, Durations, Point, Rates, Window

router = APIRouter(prefix="/admin/jobs", tags=["Admin"], route_class=GuardedRoute)

_DURATIONS: Final[dict[str, Any]] = {"p50": 0.021, "p95": 0.14, "p99": 0.37}
EXAMPLE_RATES: Final[dict[str, Any]] = {
    "succeeded": 1180,
    "retried": 15,
    "dead_lettered": 3,
    "failed": 2,
    "cancelled": 0,
    "failure_share": 0.0167,
    "start_delay": {"p50": 0.002, "p95": 0.006, "p99": 0.02},
    "run_time": _DURATIONS,
}
_NONE: Final = "null: nothing ran."


class RatesQuery(BaseModel):
    """The time, and whose attempts are counted."""

    model_config = ConfigDict(extra="forbid")

    window: Window = Field(Window.HOUR, description="How far back.")
    queue: Text | None = Field(None, max_length=100, description="Only this queue.")
    job_type: Text | None = Field(None, max_length=100, description="Only this job type.")


class DurationsOut(BaseModel):
    """Percentiles in seconds, each off by less than a factor of 1.26; in the first millisecond by 1 ms."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_DURATIONS]})

    p50: float = Field(description="Half took no longer.")
    p95: float = Field(description="95 % took no longer.")
    p99: float = Field(description="99 % took no longer.")


class RatesOut(BaseModel):
    """What ended in a time. Attempts are counted: a job that is retried counts at each of its ends."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_RATES]})

    succeeded: int = Field(description="Attempts that succeeded.")
    retried: int = Field(description="Attempts that failed and left a retry.")
    dead_lettered: int = Field(description="Jobs that became DEAD_LETTER.")
    failed: int = Field(description="Jobs that became FAILED.")
    cancelled: int = Field(description="Jobs that were cancelled.")
    failure_share: float | None = Field(
        description="Retried, dead-lettered and failed among all attempts; null: there were none."
    )
    start_delay: DurationsOut | None = Field(
        description=f"From the moment a job was due until a worker had it. {_NONE}"
    )
    run_time: DurationsOut | None = Field(description=f"How long handlers ran. {_NONE}")

    @classmethod
    def of(cls, found: Rates, **more: object) -> Self:
        """As read from the kept counts."""
        counts = found.counts
        return cls(
            succeeded=counts.succeeded,
            retried=counts.retried,
            dead_lettered=counts.dead_lettered,
            failed=counts.failed,
            cancelled=counts.cancelled,
            failure_share=counts.failure_share,
            start_delay=_durations(found.start_delay),
            run_time=_durations(found.run_time),
            **more,
        )


class PointOut(RatesOut):
    """What ended in one step."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"at": "2026-03-01T09:10:00Z"} | EXAMPLE_RATES]}
    )

    at: UtcTime = Field(description="Begin of the step.")


class NamedOut(RatesOut):
    """What ended of one queue or job type."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "send_invoice"} | EXAMPLE_RATES]}
    )

    name: str | None = Field(
        description="null: of all beyond the `COUNTED_PAIRS` pairs of queue and type of a day."
    )


class RatesAnswer(BaseModel):
    """What ended in the window."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "as_of": "2026-03-01T09:10:31Z",
                    "since": "2026-03-01T08:11:00Z",
                    "step_seconds": 60,
                    "total": EXAMPLE_RATES,
                    "points": [{"at": "2026-03-01T08:11:00Z"} | EXAMPLE_RATES],
                    "by_queue": [{"name": "billing"} | EXAMPLE_RATES],
                    "by_type": [{"name": "send_invoice"} | EXAMPLE_RATES],
                }
            ]
        }
    )

    as_of: UtcTime = Field(
        description="When this was read. What ended in the last `MAINTENANCE_SECONDS` may be missing."
    )
    since: UtcTime = Field(description="Begin of the first step.")
    step_seconds: int = Field(description="Length of a step.")
    total: RatesOut = Field(description="Of the whole window.")
    points: list[PointOut] = Field(description="Step by step, oldest first, empty ones included.")
    by_queue: list[NamedOut] = Field(description="The 50 queues with the most attempts.")
    by_type: list[NamedOut] = Field(description="The 50 job types with the most attempts.")


@router.get(
    "/rates",
    operation_id="getJobRates",
    summary="Count what ended lately",
    response_description="Counts, start delays and run times.",
    responses=problem_responses(422, 503),
)
async def read_rates(
    _: Annotated[Principal, Security(require(Permission.ADMIN_READ))],
    query: Annotated[RatesQuery, Query(), FIRST_ERRORS],
    session: Session,
) -> RatesAnswer:
    """Attempts by outcome, with percentiles of their start delay and run time.

    From counts that workers keep by minute, hour and day (`MINUTEEXAMPLE_RATES_HOURS` and the settings
    after it): the time this takes does not depend on how many jobs there are.
    """
    now = datetime.now(UTC)
    since = query.window.since(now)
    queue, job_type = query.queue, query.job_type
    points = await rates.series(
        session,
        since=since,
        until=now,
        step_seconds=query.window.step_seconds,
        queue=queue,
        job_type=job_type,
    )
    total = await rates.total(session, since=since, queue=queue, job_type=job_type)
    by_queue = await rates.totals(session, since=since, by="queue", queue=queue, job_type=job_type)
    by_type = await rates.totals(
        session, since=since, by="job_type", queue=queue, job_type=job_type
    )
    return RatesAnswer(
        as_of=now,
        since=since,
        step_seconds=query.window.step_seconds,
        total=RatesOut.of(total),
        points=list(map(_point, points)),
        by_queue=_named(by_queue),
        by_type=_named(by_type),
    )


def _point(point: Point) -> PointOut:
    return PointOut.of(point.rates, at=point.at)


def _named(found: dict[str, Rates]) -> list[NamedOut]:
    return [
        NamedOut.of(found[name], name=None if name == REST else name)
        for name in list(found)[: rates.MAX_TIMED_NAMES]
    ]


def _durations(found: Durations | None) -> DurationsOut | None:
    return None if found is None else DurationsOut.model_validate(found)
