"""Schedules as clients send and get them, field by field."""

from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field

from service.api.field_types import Name, Priority, Reason, Retries, UtcTime
from service.schedules.managing import MAX_NAMES, shown
from service.schedules.model import CatchUp, Definition, Overlap, Schedule, TickOutcome
from service.schedules.rules import concurrency_key_of, queue_of
from service.schedules.timing import Timing

EXAMPLE: Final[dict[str, Any]] = {
    "name": "send-digests",
    "cron": "30 6 * * 1-5",
    "zone": "Europe/Berlin",
    "job_type": "demo.ok",
    "payload": {"number": 7},
}
EXAMPLE_OUT: Final[dict[str, Any]] = {
    "name": "send-digests",
    "cron": "30 6 * * 1-5",
    "every_seconds": None,
    "zone": "Europe/Berlin",
    "jitter_seconds": 0.0,
    "job_type": "demo.ok",
    "payload": {"number": 7},
    "tick_member": None,
    "queue": "default",
    "priority": None,
    "max_retries": None,
    "timeout_seconds": None,
    "concurrency_key": None,
    "overlap": "skip",
    "catch_up": "one",
    "catch_up_seconds": 3600.0,
    "pause_after_failures": None,
    "owner": None,
    "pinned_by": None,
    "created_by": "billing",
    "created_at": "2030-01-02T12:00:00Z",
    "changed_at": "2030-01-02T12:00:00Z",
    "paused": False,
    "paused_at": None,
    "paused_by": None,
    "pause_reason": None,
    "last_tick_at": "2030-01-30T05:30:00Z",
    "next_tick_at": "2030-01-31T05:30:00Z",
    "due_at": "2030-01-31T05:30:00Z",
    "failures": 0,
}
_OVERLAP: Final = (
    "What becomes of a tick while a run before it has not ended. `skip`: it is skipped. `queue_one`: one run "
    "waits for that end, further ticks are skipped. `queue_all`: each run waits for the one before. "
    "`cancel_other`: that run is cancelled, and this one starts once it has ended. `allow`: both run."
)
_CATCH_UP: Final = (
    "What becomes of ticks that came while no worker was there, and that are not older than "
    "`catch_up_seconds`. `one`: the newest runs. `all`: each runs. `none`: none runs."
)

# The bounds are for the description: the domain checks them, and names the value and the rule.
_Cron = Annotated[
    str, Field(description="Minute, hour, day, month and weekday, or `@daily` and such.")
]
_Every = Annotated[
    float,
    Field(
        strict=True,
        allow_inf_nan=False,
        json_schema_extra={"minimum": 1, "maximum": 366 * 86_400},
        description="From one tick to the next, counted from 1970 in UTC: an hour ticks on the hour.",
    ),
]
_Seconds = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Rule(BaseModel):
    """When something is due."""

    model_config = ConfigDict(extra="forbid")

    cron: _Cron | None = Field(
        None,
        description="Minute, hour, day, month and weekday, or `@hourly`, `@daily`, `@weekly`, `@monthly`, "
        "`@yearly`. This or `every_seconds`.",
    )
    every_seconds: _Every | None = Field(
        None,
        description="From one tick to the next, at least 1; counted from 1970 in UTC, so that an hour ticks "
        "on the hour.",
    )
    zone: str = Field("UTC", description="IANA time zone whose clock `cron` means.")

    def timing(self) -> Timing:
        """As the domain knows it."""
        return Timing(self.cron, self.every_seconds, self.zone)


class ScheduleIn(Rule):
    """A new schedule."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                EXAMPLE,
                {
                    "name": "poll-orders",
                    "every_seconds": 30,
                    "job_type": "demo.ok",
                    "catch_up": "none",
                },
            ]
        },
    )

    name: Name = Field(description="What it is called, unlike every other.")
    job_type: Name = Field(description="The type of the jobs that it enqueues.")
    payload: dict[str, Any] = Field(
        default_factory=dict,
        description="Of its jobs, 16 KB at most.",
    )
    tick_member: Name | None = Field(
        None,
        description="Name of a member of the payload in which each job gets its tick: `name` of the schedule, "
        "`planned_at` and `backfill`. Handlers in Python read the same by `ctx.tick()` without it.",
    )
    queue: Name | None = Field(
        None, description="Where its jobs wait; default the handler's own, else `default`."
    )
    priority: Priority | None = Field(None, description="Of its jobs, 0 to 9; default 2.")
    max_retries: Retries | None = Field(None, description="Of its jobs; default the handler's.")
    timeout_seconds: float | None = Field(
        None, gt=0, le=86_400, strict=True, description="Of one attempt; default the handler's."
    )
    concurrency_key: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="Of its jobs; default by the handler's rule.",
    )
    overlap: Overlap = Field(Overlap.SKIP, description=_OVERLAP)
    catch_up: CatchUp = Field(CatchUp.ONE, description=_CATCH_UP)
    catch_up_seconds: _Seconds = Field(
        3600.0, description="How late a tick may still run, 0 to 2678400 (31 days)."
    )
    jitter_seconds: _Seconds = Field(
        0.0,
        description="Limit on how long after its tick a run is due: another for each tick, the same in every "
        "process. Less than ticks are apart.",
    )
    pause_after_failures: int | None = Field(
        None,
        strict=True,
        description="After so many failed runs in a row it is paused, 1 to 1000; null: never.",
    )

    def definition(self) -> Definition:
        """As the domain knows it, with its queue and concurrency key decided."""
        values = self.model_dump(exclude={"name", "cron", "every_seconds", "zone"})
        values["queue"] = self.queue or queue_of(self.job_type)
        values["concurrency_key"] = self.concurrency_key or concurrency_key_of(
            self.job_type, self.payload
        )
        return Definition(timing=self.timing(), **values)


class ScheduleOut(BaseModel):
    """A schedule, and how it stands."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_OUT]})

    name: str
    cron: str | None
    every_seconds: float | None
    zone: str
    jitter_seconds: float
    job_type: str
    payload: dict[str, Any] = Field(description="Of its jobs, without their tick.")
    tick_member: str | None = Field(
        description="The member of the payload in which each job gets its tick."
    )
    queue: str
    priority: int | None
    max_retries: int | None
    timeout_seconds: float | None
    concurrency_key: str | None
    overlap: Overlap
    catch_up: CatchUp
    catch_up_seconds: float
    pause_after_failures: int | None
    owner: str | None = Field(
        description="The application whose code defines it. null: it was made by hand."
    )
    pinned_by: str | None = Field(
        description="Who changed by hand what code defines: it stays so until it is released."
    )
    created_by: str | None = Field(description="The caller who made it, and whose its jobs are.")
    created_at: UtcTime
    changed_at: UtcTime
    paused: bool
    paused_at: UtcTime | None
    paused_by: str | None = Field(
        description="Who paused it; `failures`: after `pause_after_failures`; `code`: its decorator is gone."
    )
    pause_reason: str | None
    last_tick_at: UtcTime | None = Field(description="The last tick that was decided.")
    next_tick_at: UtcTime | None = Field(description="null: it is paused, or no tick is left.")
    due_at: UtcTime | None = Field(description="The next tick with its jitter.")
    failures: int = Field(description="Runs that failed since the last one that succeeded.")

    @classmethod
    def of(cls, schedule: Schedule) -> Self:
        """The schedule as it was read."""
        own = {
            name: getattr(schedule, name) for name in cls.model_fields if hasattr(schedule, name)
        }
        return cls(**own | shown(schedule.definition) | {"paused": schedule.is_paused})


class SchedulePage(BaseModel):
    """Some schedules, by name."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"schedules": [EXAMPLE_OUT], "next_cursor": None}]}
    )

    schedules: list[ScheduleOut]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class ScheduleReason(BaseModel):
    """Why; the body may be left out."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "the bank is closed"}]}
    )

    reason: Reason | None = Field(None, description="Why, for the audit log.")


class ManySchedules(ScheduleReason):
    """Schedules by name."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"names": ["send-digests", "poll-orders"], "reason": "maintenance"}]
        },
    )

    names: list[Name] = Field(
        min_length=1,
        max_length=MAX_NAMES,
        description=f"At most {MAX_NAMES} of them: all, or none.",
    )


class TickOut(BaseModel):
    """What became of a tick."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {
                    "planned_at": "2030-01-31T05:30:00Z",
                    "until": None,
                    "ticks": 1,
                    "outcome": "fired",
                    "reason": None,
                    "decided_at": "2030-01-31T05:30:00.012Z",
                    "job_id": 4711,
                    "run_status": "SUCCESS",
                }
            ]
        },
    )

    planned_at: UtcTime = Field(description="The tick.")
    until: UtcTime | None = Field(description="The last of several that were missed in a row.")
    ticks: int = Field(description="How many; at least so many where it is 1000.")
    outcome: TickOutcome
    reason: str | None = Field(description="Why it was not fired, or late, or by whom.")
    decided_at: UtcTime
    job_id: int | None = Field(description="Its job.")
    run_status: str | None = Field(
        description="How the job ended; `GONE`: it was deleted. null: it has not ended, or there is none."
    )


class TickPage(BaseModel):
    """What became of ticks, newest first."""

    ticks: list[TickOut]
    next_cursor: str | None = Field(description="For the next page; null on the last.")
