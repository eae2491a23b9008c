"""Settings of schedules: how often new ones are looked for, and how long their ledger is kept."""

from pydantic import BaseModel, Field


class SchedulesSettings(BaseModel):
    """The look for due schedules, how many there may be, and how long ticks are kept."""

    schedule_poll_seconds: float = Field(
        5.0,
        gt=0,
        le=60,
        description="How often a worker looks for schedules that were made or changed elsewhere, should no notification tell it; of those that it knows it wakes for each tick.",
    )
    max_schedules: int = Field(
        10_000, ge=1, le=1_000_000, description="Schedules that there may be, in all."
    )
    schedule_owner: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="Name of the application whose code defines schedules with `@schedule`: the same in all of its processes, which load the same handlers, and in no others. With it a schedule is paused whose decorator is gone; without it, it goes on until somebody deletes it.",
    )
    schedule_tick_days: int = Field(
        30, ge=1, le=3650, description="Days that it is kept what became of each tick."
    )
