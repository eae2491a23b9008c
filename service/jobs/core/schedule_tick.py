"""Which tick of a schedule a job is for."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ScheduleTick:
    """The tick that a job is for: what `ctx.tick()` returns.

    A payload model may have it as a field, where its schedule has a `tick_member`.

    Args:
        name: of the schedule.
        planned_at: the tick, without jitter and however late the job; of a run by hand, when it was
            asked for.
        backfill: whether it is a run for a time that had passed, by a backfill.
    """

    name: str
    planned_at: datetime
    backfill: bool = False
