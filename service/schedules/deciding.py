"""What becomes of the ticks that are due, by their lateness alone. No I/O.

The run before a tick is another question: `firing.py` asks it of what is to be fired here.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from service.schedules.model import CatchUp, Definition, Schedule
from service.schedules.timing import jitter_of

ON_TIME: Final = timedelta(seconds=10)
"""A tick that is acted on so late at most was not missed."""

MAX_FIRED: Final = 100
"""Limit on the runs of one schedule that one look enqueues; the next look goes on at once."""

MAX_WALKED: Final = 1000
"""Limit on the ticks of one schedule that one look decides."""


@dataclass(frozen=True, slots=True)
class Fire:
    """A tick that is to run; `reason` says why it runs late."""

    planned_at: datetime
    due_at: datetime
    reason: str | None = None


@dataclass(slots=True)
class Missed:
    """Ticks in a row that do not run, for one reason; `ticks` of them at least, where they are many."""

    planned_at: datetime
    until: datetime
    ticks: int
    reason: str


@dataclass(slots=True)
class Decided:
    """What becomes of the due ticks of one schedule."""

    fires: list[Fire] = field(default_factory=list)
    missed: list[Missed] = field(default_factory=list)
    last_tick_at: datetime | None = None
    next_tick_at: datetime | None = None
    due_at: datetime | None = None

    def miss(self, tick: datetime, reason: str) -> None:
        """Add a tick that does not run."""
        if self.missed and self.missed[-1].reason == reason:
            self.missed[-1].until, self.missed[-1].ticks = tick, self.missed[-1].ticks + 1
        else:
            self.missed.append(Missed(tick, tick, 1, reason))


def decide(schedule: Schedule, now: datetime) -> Decided:
    """Decide the ticks of a schedule up to `now`, which is the time of the database.

    Every tick is decided once: the next is looked for after the last one, never after `now`, so that a
    clock that steps back repeats none.
    """
    decided, definition = Decided(), schedule.definition
    tick = schedule.next_tick_at
    walked = 0
    while tick is not None:
        due = tick + jitter_of(schedule.name, tick, definition.jitter_seconds)
        if due > now or walked >= MAX_WALKED or len(decided.fires) >= MAX_FIRED:
            break
        following = definition.timing.next_after(tick)
        _decide_one(schedule, decided, Fire(tick, due), following, now)
        decided.last_tick_at, tick = tick, following
        walked += 1
    if tick is not None and walked == MAX_WALKED:
        tick = _past_the_window(definition, decided, tick, now)
    decided.next_tick_at = tick
    if tick is not None:
        decided.due_at = tick + jitter_of(schedule.name, tick, definition.jitter_seconds)
    return decided


def _past_the_window(
    definition: Definition, decided: Decided, tick: datetime, now: datetime
) -> datetime | None:
    """The next tick that may still run, after a time in which too many were missed to count them."""
    window = timedelta(seconds=definition.catch_up_seconds)
    horizon = now - (ON_TIME if definition.catch_up is CatchUp.NONE else max(window, ON_TIME))
    if tick >= horizon or not decided.missed:
        return tick
    decided.missed[-1].until = horizon
    return definition.timing.next_after(horizon)


def _decide_one(
    schedule: Schedule, decided: Decided, fire: Fire, following: datetime | None, now: datetime
) -> None:
    definition, late = schedule.definition, now - fire.due_at
    if late <= ON_TIME:
        decided.fires.append(fire)
        return
    words = f"{late.total_seconds():.0f} s late"
    if definition.catch_up is CatchUp.NONE:
        decided.miss(fire.planned_at, "no process was there, and catch_up is none")
    elif late > timedelta(seconds=definition.catch_up_seconds):
        decided.miss(
            fire.planned_at,
            f"no process was there within catch_up_seconds ({definition.catch_up_seconds:g})",
        )
    elif definition.catch_up is CatchUp.ONE and following is not None and following <= now:
        decided.miss(fire.planned_at, "no process was there, and a later tick ran in its place")
    else:
        decided.fires.append(Fire(fire.planned_at, fire.due_at, f"caught up, {words}"))
