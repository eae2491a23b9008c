"""Previews of ticks as clients ask for and get them."""

from datetime import timedelta
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field

from service.api.field_types import PlannedTime, UtcTime
from service.schedules import preview as previews
from service.schedules.schemas import Rule


class SchedulePreviewIn(Rule):
    """A rule whose ticks are asked for."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"cron": "30 2 * * *", "zone": "Europe/Berlin", "count": 5}]
        },
    )

    after: PlannedTime | None = Field(None, description="From when on; default now.")
    count: int = Field(
        5, ge=1, le=previews.MAX_COUNT, strict=True, description="How many ticks, 100 at most."
    )


_TICK: Final[dict[str, Any]] = {"at": "2030-03-31T01:00:00Z", "local": "2030-03-31T03:00:00+02:00"}


class TickTime(BaseModel):
    """When a tick is."""

    at: UtcTime = Field(description="In UTC.")
    local: str = Field(description="By the clock of the zone, with its offset.")

    @classmethod
    def of(cls, tick: previews.Tick) -> Self:
        """The tick as an answer shows it."""
        return cls(at=tick.at, local=tick.local.isoformat())


class ClockChangeOut(BaseModel):
    """A change of the zone's clock, and the ticks around it."""

    at: UtcTime = Field(description="When the clock changes.")
    offset_before: str = Field(description="From UTC, as +01:00.")
    offset_after: str
    ticks: list[TickTime] = Field(description="The last two before it, and the first three after.")


class SchedulePreviewOut(BaseModel):
    """The ticks of a rule."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "ticks": [_TICK],
                    "clock_change": {
                        "at": "2030-03-31T01:00:00Z",
                        "offset_before": "+01:00",
                        "offset_after": "+02:00",
                        "ticks": [_TICK],
                    },
                }
            ]
        }
    )

    ticks: list[TickTime] = Field(description="The next ones.")
    clock_change: ClockChangeOut | None = Field(
        description="The next change of the zone's clock, within 400 days, and what it does to the ticks. "
        "null: there is none."
    )

    @classmethod
    def of(cls, found: previews.Preview) -> Self:
        """The preview as an answer shows it."""
        change = found.change
        return cls(
            ticks=[TickTime.of(one) for one in found.ticks],
            clock_change=None
            if change is None
            else ClockChangeOut(
                at=change.at,
                offset_before=_offset(change.before),
                offset_after=_offset(change.after),
                ticks=[TickTime.of(one) for one in change.ticks],
            ),
        )


def _offset(offset: timedelta) -> str:
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
