"""Queues as clients get and change them, field by field."""

from typing import Annotated, Any, Final, Self, cast

from pydantic import BaseModel, ConfigDict, Field

from service.api.field_types import Reason, UtcTime, WholeNumber
from service.jobs.core.queue_limits import (
    MAX_LIMIT,
    MAX_RATE_SECONDS,
    MAX_WEIGHT,
    MIN_RATE_SECONDS,
    AtLimit,
    LimitChange,
    Rate,
)
from service.jobs.read.queues import QueueState

EXAMPLE: Final[dict[str, Any]] = {
    "name": "billing",
    "paused": True,
    "reason": "the payment provider is down",
    "by": "ops@example.com",
    "since": "2026-03-01T09:00:00Z",
    "drained": False,
    "due": 1204,
    "held": 310,
    "running": 38,
    "exact": True,
    "oldest_due_seconds": 631.5,
    "dead": 2,
    "workers": 3,
    "max_running": 40,
    "permits_used": 38,
    "max_running_per_key": 3,
    "rate": {"limit": 100, "per_seconds": 60.0, "burst": 10},
    "rate_per_key": {"limit": 5, "per_seconds": 1.0, "burst": None},
    "weight": 5,
    "key_fairness": False,
    "at_limit": "wait",
    "changed_at": "2026-02-27T14:03:11Z",
    "changed_by": "ops@example.com",
}


class RateOut(BaseModel):
    """How many jobs may start within a time."""

    limit: int = Field(description="Jobs that may start within `per_seconds`.")
    per_seconds: float = Field(description="The time that they are counted over.")
    burst: int | None = Field(
        description="Jobs that may start at once after a quiet time. null: what may start in a second, at "
        "least 1."
    )


class QueueOut(BaseModel):
    """One queue."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    name: str = Field(description="Its name.")
    paused: bool = Field(description="Whether no job of it is started.")
    reason: str | None = Field(
        description="Why it is paused, if it was said.",
    )
    by: str | None = Field(description="Who paused it.")
    since: UtcTime | None = Field(
        description="When it was paused. null: it is not.",
    )
    drained: bool = Field(
        description="True: it is paused, every process knows, and no job of it runs under a lease. In "
        "the list it is false as well where `exact` is."
    )
    due: int = Field(description="PENDING jobs whose time has come, and that are not held.")
    held: int = Field(description="PENDING jobs that wait for a permit, a rate or other jobs.")
    running: int = Field(description="RUNNING jobs.")
    exact: bool = Field(
        description="False: there are at least `due`, `held` and `running`; more were not counted."
    )
    oldest_due_seconds: float | None = Field(
        description="How long the oldest due job has been due. null: none is."
    )
    dead: int = Field(description="Jobs that are FAILED or DEAD_LETTER.")
    workers: int = Field(description="Live workers that serve it.")
    max_running: int | None = Field(
        description="Jobs of it that may run at once, over all processes. null: no limit.",
    )
    permits_used: int | None = Field(
        description="RUNNING jobs that count under `max_running`: not those that ran before it was "
        "set. null: there is no such limit."
    )
    max_running_per_key: int | None = Field(
        description="Jobs with the same concurrency key that may run at once. null: no limit.",
    )
    rate: RateOut | None = Field(
        description="How many jobs may start within a time. null: no limit.",
    )
    rate_per_key: RateOut | None = Field(
        description="How many jobs with the same concurrency key may start within a time. null: no limit.",
    )
    weight: int | None = Field(
        description="Its share of the slots beside other queues with due jobs. null: 1.",
    )
    key_fairness: bool = Field(
        description="Whether its concurrency keys take turns: claims start as many jobs of each that has due "
        "ones. false: in order of due time, whatever the key.",
    )
    at_limit: str = Field(
        description="What becomes of a job that finds a limit on running jobs reached.",
    )
    changed_at: UtcTime | None = Field(
        description="When its limits were changed last. null: it has none.",
    )
    changed_by: str | None = Field(description="Who changed them.")

    @classmethod
    def of(cls, queue: QueueState) -> Self:
        """The queue as it was read."""
        pause, settings = queue.pause, queue.settings
        return cls(
            name=queue.name,
            paused=queue.paused,
            reason=pause and pause.reason,
            by=pause and pause.by,
            since=pause and pause.since,
            drained=queue.drained,
            due=queue.due,
            held=queue.held,
            running=queue.running,
            exact=queue.exact,
            oldest_due_seconds=queue.oldest_due_seconds,
            dead=queue.dead,
            workers=queue.workers,
            permits_used=queue.permits_used,
            changed_at=settings.changed_at,
            changed_by=settings.changed_by,
            **queue.limits.shown(),
        )


class QueueListOut(BaseModel):
    """The queues, by name."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"queues": [EXAMPLE], "complete": True}]}
    )

    queues: list[QueueOut]
    complete: bool = Field(description="False: there are more queues than one list shows (1,000).")


# The bounds are for the description: the domain checks them, and names the value and the rule.
_Limit = Annotated[WholeNumber, Field(json_schema_extra={"minimum": 1, "maximum": MAX_LIMIT})]
_Weight = Annotated[WholeNumber, Field(json_schema_extra={"minimum": 1, "maximum": MAX_WEIGHT})]
_Seconds = Annotated[
    float,
    Field(
        strict=True,
        allow_inf_nan=False,
        json_schema_extra={"minimum": MIN_RATE_SECONDS, "maximum": MAX_RATE_SECONDS},
    ),
]


class RateIn(BaseModel):
    """How many jobs may start within a time."""

    model_config = ConfigDict(extra="forbid")

    limit: _Limit = Field(description="Jobs that may start within `per_seconds`.")
    per_seconds: _Seconds = Field(description="The time that they are counted over.")
    burst: _Limit | None = Field(
        None,
        description="Jobs that may start at once after a quiet time; default what may start in a second, at "
        "least 1.",
    )

    def rate(self) -> Rate:
        """As the domain knows it."""
        return Rate(self.limit, self.per_seconds, self.burst)


class QueueChange(BaseModel):
    """What to change of a queue: null lifts a limit, what is left out stays."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"paused": True, "reason": "the payment provider is down"},
                {"paused": False},
                {"max_running": 40, "max_running_per_key": 3},
                {"rate": {"limit": 100, "per_seconds": 60, "burst": 10}},
                {"rate_per_key": {"limit": 5, "per_seconds": 1}},
                {"key_fairness": True},
                {"max_running": None, "rate": None},
            ]
        },
    )

    paused: bool | None = Field(
        None, strict=True, description="true pauses it, false resumes it; neither without."
    )
    reason: Reason | None = Field(
        None, description="Why: for whoever looks next, and for the audit log."
    )
    max_running: _Limit | None = Field(
        None, description="Jobs of it that may run at once, over all processes."
    )
    max_running_per_key: _Limit | None = Field(
        None, description="Jobs with the same concurrency key that may run at once."
    )
    rate: RateIn | None = Field(None, description="How many jobs may start within a time.")
    rate_per_key: RateIn | None = Field(
        None,
        description="How many jobs with the same concurrency key may start within a time; other queues count "
        "theirs apart.",
    )
    weight: _Weight | None = Field(
        None, description="Its share of the slots beside other queues with due jobs; null is 1."
    )
    key_fairness: bool | None = Field(
        None,
        strict=True,
        description="Whether its concurrency keys take turns: within a priority claims start as many jobs "
        "of each key that has due ones, whether or not a limit per key is set. Jobs without a key count as one "
        "key. null is false.",
    )
    at_limit: AtLimit | None = Field(
        None,
        description="What becomes of a job that finds a limit on running jobs reached: `wait`, in order; "
        "`drop_new`: it ends CANCELLED; `keep_latest`: of those that wait for the limit the newest stays, "
        "the others end CANCELLED; `cancel_running`: it waits, and the one that has run longest under "
        "the limit is asked to stop. null is `wait`.",
    )

    def limits(self) -> LimitChange:
        """The limits that are to be changed."""
        values: dict[str, Any] = {
            name: getattr(self, name)
            for name in self.model_fields_set & LimitChange.__optional_keys__
        }
        for name in ("rate", "rate_per_key"):
            if values.get(name) is not None:
                values[name] = values[name].rate()
        if "key_fairness" in values:
            values["key_fairness"] = bool(self.key_fairness)
        if "at_limit" in values:
            values["at_limit"] = self.at_limit or AtLimit.WAIT
        return cast("LimitChange", values)
