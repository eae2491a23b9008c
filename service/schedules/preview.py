"""The next ticks of a rule, and what the next change of the clock does to them. No I/O."""

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Final
from zoneinfo import ZoneInfo

from service.schedules.timing import Timing

MAX_COUNT: Final = 100
LOOK_AHEAD: Final = timedelta(days=400)
"""How far ahead a change of the clock is looked for: more than a year."""

BEFORE: Final = 2
AFTER: Final = 3
"""Ticks that are shown before and after the change."""

_WINDOWS: Final = (
    timedelta(minutes=10), timedelta(hours=3), timedelta(days=2), timedelta(days=40),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick, in UTC and by the clock of the zone."""

    at: datetime
    local: datetime


@dataclass(frozen=True, slots=True)
class ClockChange:
    """A change of the clock: when, from which offset to which, and the ticks around it."""

    at: datetime
    before: timedelta
    after: timedelta
    ticks: list[Tick]


@dataclass(frozen=True, slots=True)
class Preview:
    """The next ticks; `change` is None where the zone's clock does not change within a year."""

    ticks: list[Tick]
    change: ClockChange | None


def preview(timing: Timing, *, after: datetime, count: int) -> Preview:
    """What comes after a moment; `timing` has been checked."""
    ticks = [_tick(timing, one) for one in islice(timing.ticks_after(after), count)]
    found = next_change(timing.zone, after)
    return Preview(ticks, None if found is None else _change(timing, found))


def next_change(zone: str, after: datetime) -> datetime | None:
    """When the clock of the zone changes next, to the second; None: not within `LOOK_AHEAD`."""
    info = ZoneInfo(zone)
    low, end = after.astimezone(UTC).replace(microsecond=0), after + LOOK_AHEAD
    offset = _offset(info, low)
    while low < end:
        high = low + timedelta(days=1)
        if _offset(info, high) != offset:
            return _between(info, low, high)
        low = high
    return None


def _between(info: ZoneInfo, low: datetime, high: datetime) -> datetime:
    offset = _offset(info, low)
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // 2
        middle = middle.replace(microsecond=0)
        if _offset(info, middle) == offset:
            low = middle
        else:
            high = middle
    return high


def _change(timing: Timing, at: datetime) -> ClockChange:
    info = ZoneInfo(timing.zone)
    just_before = at - timedelta(microseconds=1)
    ticks = [*_last_before(timing, at), *islice(timing.ticks_after(just_before), AFTER)]
    return ClockChange(
        at, _offset(info, just_before), _offset(info, at), [_tick(timing, one) for one in ticks]
    )


def _last_before(timing: Timing, at: datetime) -> list[datetime]:
    found: deque[datetime] = deque(maxlen=BEFORE)
    for window in _WINDOWS:
        found.extend(takewhile(lambda tick: tick < at, timing.ticks_after(at - window)))
        if len(found) == BEFORE:
            break
        found.clear()
    return list(found)


def _tick(timing: Timing, at: datetime) -> Tick:
    return Tick(at, timing.local(at))


def _offset(info: ZoneInfo, at: datetime) -> timedelta:
    return at.astimezone(info).utcoffset() or timedelta()
