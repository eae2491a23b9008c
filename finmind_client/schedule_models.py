"""Schedules as they are sent and come back."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from datetime import datetime
from typing import Any, Literal, Self, TypedDict

Overlap = Literal["skip", "queue_one", "queue_all", "cancel_other", "allow"]
CatchUp = Literal["one", "all", "none"]
TickOutcome = Literal["fired", "skipped", "missed", "backfilled"]


class ScheduleOptions(TypedDict, total=False):
    """The options of a new schedule: members of `NewSchedule`, by name."""

    cron: str | None
    every_seconds: float | None
    zone: str | None
    tick_member: str | None
    queue: str | None
    priority: int | None
    max_retries: int | None
    timeout_seconds: float | None
    concurrency_key: str | None
    overlap: Overlap | None
    catch_up: CatchUp | None
    catch_up_seconds: float | None
    jitter_seconds: float | None
    pause_after_failures: int | None


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule to be made. What is None is left to the service; see its OpenAPI document for the rules."""

    name: str
    job_type: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    _: KW_ONLY
    cron: str | None = None
    """Minute, hour, day, month and weekday, or `@daily` and such; this or `every_seconds`."""
    every_seconds: float | None = None
    zone: str | None = None
    """IANA time zone whose clock `cron` means; UTC unless said."""
    tick_member: str | None = None
    queue: str | None = None
    priority: int | None = None
    max_retries: int | None = None
    timeout_seconds: float | None = None
    concurrency_key: str | None = None
    overlap: Overlap | None = None
    catch_up: CatchUp | None = None
    catch_up_seconds: float | None = None
    jitter_seconds: float | None = None
    pause_after_failures: int | None = None

    def body(self) -> dict[str, Any]:
        """The members of the request: those that are given."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule as the service shows it."""

    name: str
    job_type: str
    payload: Mapping[str, Any]
    cron: str | None
    every_seconds: float | None
    zone: str
    queue: str
    overlap: Overlap
    catch_up: CatchUp
    paused: bool
    pause_reason: str | None
    last_tick_at: datetime | None
    next_tick_at: datetime | None
    """None: it is paused, or no tick is left."""
    failures: int
    """Runs that failed since the last one that succeeded."""
    document: Mapping[str, Any] = field(repr=False, compare=False)
    """All members of the answer: also those that this version of the client does not know."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read one from an answer."""
        names = [one.name for one in fields(cls) if one.name != "document"]
        members = {name: document[name] for name in names}
        members |= {name: _time(document[name]) for name in ("last_tick_at", "next_tick_at")}
        return cls(**members, document=document)


@dataclass(frozen=True, slots=True)
class Tick:
    """What became of a tick, or of several that were missed in a row."""

    planned_at: datetime
    outcome: TickOutcome
    reason: str | None
    """Why it was not fired, or late, or by whom."""
    job_id: int | None
    run_status: str | None
    """How its job ended; None: it has not, or there is none."""
    document: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read one from an answer."""
        return cls(
            datetime.fromisoformat(document["planned_at"]),
            document["outcome"],
            document["reason"],
            document["job_id"],
            document["run_status"],
            document,
        )


@dataclass(frozen=True, slots=True)
class Preview:
    """The next ticks of a rule."""

    ticks: Sequence[datetime]
    clock_change: Mapping[str, Any] | None
    """The next change of the zone's clock within 400 days, and the ticks around it."""


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What a backfill did."""

    ticks: int
    enqueued: int
    skipped: int
    first_job_id: int | None
    last_job_id: int | None


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
