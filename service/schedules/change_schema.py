"""Changes of schedules, runs and backfills as clients ask for them."""

from dataclasses import replace
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.api.field_types import Moment, Name, Priority, Reason, Retries, UtcTime
from service.schedules.by_hand import MAX_BACKFILL, Backfilled
from service.schedules.model import CatchUp, Definition, Overlap
from service.schedules.rules import concurrency_key_of, queue_of
from service.schedules.timing import Timing

_NOT_NULL: Final = (
    "zone", "job_type", "payload", "overlap", "catch_up", "catch_up_seconds", "jitter_seconds",
)  # fmt: skip

_Seconds = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class ScheduleChange(BaseModel):
    """What to change of a schedule; what is left out stays."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"cron": "0 7 * * 1-5", "reason": "an hour later"},
                {"every_seconds": 60, "overlap": "queue_one"},
            ]
        },
    )

    cron: str | None = Field(None, description="A new rule, in place of an interval as well.")
    every_seconds: _Seconds | None = Field(
        None, description="A new interval, in place of a cron expression as well."
    )
    zone: str | None = Field(None, description="IANA time zone whose clock `cron` means.")
    job_type: Name | None = Field(None, description="The type of its jobs.")
    payload: dict[str, Any] | None = Field(None, description="Of its jobs, in place of the former.")
    tick_member: Name | None = Field(
        None, description="The member of the payload in which each job gets its tick; null: none."
    )
    queue: Name | None = Field(None, description="Where they wait; null: the handler's own.")
    priority: Priority | None = Field(None, description="Of its jobs; null: 2.")
    max_retries: Retries | None = Field(None, description="Of its jobs; null: the handler's.")
    timeout_seconds: float | None = Field(
        None, gt=0, le=86_400, strict=True, description="Of one attempt; null: the handler's."
    )
    concurrency_key: str | None = Field(
        None, min_length=1, max_length=255, description="Of its jobs; null: by the handler's rule."
    )
    overlap: Overlap | None = Field(None, description="As in `POST /schedules`.")
    catch_up: CatchUp | None = Field(None, description="As in `POST /schedules`.")
    catch_up_seconds: _Seconds | None = Field(None, description="How late a tick may still run.")
    jitter_seconds: _Seconds | None = Field(
        None, description="Limit on how long after its tick a run is due."
    )
    pause_after_failures: int | None = Field(
        None, strict=True, description="After so many failed runs in a row; null: never."
    )
    reason: Reason | None = Field(None, description="Why, for the audit log.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        given = self.model_fields_set - {"reason"}
        if not given:
            raise ValueError("nothing to change: give at least one field of the schedule")
        if nulls := sorted(
            name for name in given if name in _NOT_NULL and getattr(self, name) is None
        ):
            raise ValueError(
                f"{nulls[0]} is null, which is no value of it: leave it out to keep it"
            )
        return self

    def of(self, old: Definition) -> Definition:
        """The schedule's definition with the changes."""
        given = self.model_fields_set - {"reason", "cron", "every_seconds", "zone"}
        values = {name: getattr(self, name) for name in given}
        job_type, payload = (values.get(one, getattr(old, one)) for one in ("job_type", "payload"))
        # What a rule of the handler gave follows the type and the payload.
        queue = None if old.queue == queue_of(old.job_type) else old.queue
        by_rule = old.concurrency_key == concurrency_key_of(old.job_type, old.payload)
        key = None if by_rule else old.concurrency_key
        values["queue"] = values.get("queue", queue) or queue_of(job_type)
        values["concurrency_key"] = values.get("concurrency_key", key) or concurrency_key_of(
            job_type, payload
        )
        return replace(old, timing=self._timing(old.timing), **values)

    def _timing(self, old: Timing) -> Timing:
        cron, every = old.cron, old.every_seconds
        if self.cron is not None or self.every_seconds is not None:
            cron, every = self.cron, self.every_seconds
        elif {"cron", "every_seconds"} & self.model_fields_set:
            cron = None if "cron" in self.model_fields_set else cron
            every = None if "every_seconds" in self.model_fields_set else every
        return Timing(cron, every, self.zone or old.zone)


class ScheduleRunOut(BaseModel):
    """A run by hand."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"job_id": 4711, "planned_at": "2030-01-31T09:12:31Z"}]}
    )

    job_id: int = Field(description="Its job.")
    planned_at: UtcTime = Field(description="When it was asked for: the tick that it is told.")


class BackfillIn(BaseModel):
    """A time that has passed, whose ticks are to run."""

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        json_schema_extra={
            "examples": [
                {"from": "2026-01-01T00:00:00Z", "until": "2026-01-08T00:00:00Z", "reason": "a bug"}
            ]
        },
    )

    begin: Moment = Field(alias="from", description="The first moment.")
    until: Moment = Field(
        description=f"The moment after the last, not in the future. At most {MAX_BACKFILL} ticks lie between."
    )
    overlap: Overlap = Field(
        Overlap.QUEUE_ALL,
        description="What becomes of each run beside those before it. `queue_all`: one after the other, after "
        "what is live. `allow`: all at once. `queue_one`, `skip`: the first two, or one, unless others are "
        "live. `cancel_other` is refused.",
    )
    reason: Reason | None = Field(None, description="Why, for the audit log and the ledger.")


class BackfillOut(BaseModel):
    """What a backfill did."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"ticks": 7, "enqueued": 7, "skipped": 0, "first_job_id": 4711, "last_job_id": 4717}
            ]
        }
    )

    ticks: int = Field(description="Ticks in the range.")
    enqueued: int = Field(description="Jobs that were enqueued.")
    skipped: int = Field(description="Ticks that got none; the ledger says why.")
    first_job_id: int | None
    last_job_id: int | None

    @classmethod
    def of(cls, done: Backfilled) -> Self:
        """The backfill as an answer shows it."""
        return cls(**{name: getattr(done, name) for name in cls.model_fields})
