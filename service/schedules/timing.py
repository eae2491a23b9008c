"""When a schedule is due: cron expressions and intervals, in time zones. No I/O.

Cron is read by cronsim, which keeps to Debian's cron, its rules at changes of the clock included:
an expression whose minute and hour are fixed runs once on such a day, soon after the gap where its
time is skipped and at the first of two equal times; one with a star in either follows real time.
docs/schedules.md shows them by example.
"""

import difflib
import hashlib
import math
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from itertools import islice, pairwise
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from service.errors import InvalidInput

MAX_CRON_CHARS: Final = 200
MAX_ZONE_CHARS: Final = 64
MIN_EVERY_SECONDS: Final = 1.0
MAX_EVERY_SECONDS: Final = 366 * 86_400.0
MAX_JITTER_SECONDS: Final = 86_400.0
MAX_REMEMBERED: Final = 4096
"""Next ticks of cron expressions that are remembered."""
COMPARED_TICKS: Final = 20
"""The next ticks between which the smallest gap is looked for, which jitter must stay within."""

ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_LAST: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""No later tick is looked for: no job can be due after it."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Timing:
    """The rule that gives a schedule its ticks.

    Args:
        cron: five fields, or a word such as `@daily`; this or `every_seconds`.
        every_seconds: from one tick to the next. Ticks are whole multiples of it since 1970 in UTC,
            so that an interval of an hour ticks on the hour.
        zone: the IANA zone whose clock a cron expression means.
    """

    cron: str | None = None
    every_seconds: float | None = None
    zone: str = "UTC"

    def check(self) -> None:
        """Refuse what gives no ticks.

        Raises:
            InvalidInput: the field, its value and the rule are named.
        """
        if (self.cron is None) == (self.every_seconds is None):
            raise InvalidInput(
                "cron and every_seconds are both given: give one"
                if self.cron is not None
                else "cron or every_seconds is missing: give one of the two",
                field="cron",
            )
        _check_zone(self.zone)
        if self.every_seconds is not None:
            _check_every(self.every_seconds)
        else:
            self._check_cron()

    def _check_cron(self) -> None:
        cron = self.cron or ""
        if problem := _cron_problem(cron):
            raise InvalidInput(f"cron is {cron[:80]!r}: {problem}", field="cron")
        try:
            comes = self.next_after(datetime.now(UTC)) is not None
        except (CronSimError, AssertionError, ValueError) as error:
            what = str(error).lower() or "it cannot be read"
            raise InvalidInput(
                f"cron is {cron[:80]!r}: {what}; expected minute (0-59), hour (0-23), day (1-31), "
                "month (1-12) and weekday (0-7), such as 30 6 * * 1-5",
                field="cron",
            ) from None
        if not comes:
            raise InvalidInput(
                f"cron is {cron[:80]!r}: no such day comes within 50 years", field="cron"
            )

    def next_after(self, moment: datetime) -> datetime | None:
        """The first tick later than `moment`, in UTC; None: there is none before 2200."""
        if self.every_seconds is not None:
            every = round(self.every_seconds * 1_000_000)
            passed = (moment - _EPOCH) // _MICROSECOND
            found = _EPOCH + (passed // every + 1) * every * _MICROSECOND
            return found if found < _LAST else None
        return _next_by_cron(self.cron or "", self.zone, moment.astimezone(UTC))

    def ticks_after(self, moment: datetime) -> Iterator[datetime]:
        """Every tick later than `moment`, in order."""
        found = self.next_after(moment)
        while found is not None:
            yield found
            found = self.next_after(found)

    def local(self, moment: datetime) -> datetime:
        """The same moment by the clock of the zone; UTC for intervals in no zone."""
        return moment.astimezone(ZoneInfo(self.zone))

    @property
    def words(self) -> str:
        """The rule, short."""
        if self.every_seconds is not None:
            return f"every {self.every_seconds:.15g} s"
        return f"{self.cron} {self.zone}"


@lru_cache(maxsize=MAX_REMEMBERED)
def _next_by_cron(cron: str, zone: str, moment: datetime) -> datetime | None:
    # Hundreds of schedules with one rule are due at one time: their next tick is found once.
    local = moment.astimezone(UTC if zone == "UTC" else ZoneInfo(zone))
    for tick in CronSim(ALIASES.get(cron.lower(), cron), local):
        # In UTC: times of one zone are compared by their clocks, which go back once a year.
        found = tick.astimezone(UTC)
        if found >= _LAST:
            return None
        if found > moment:
            return found
    return None


def check_jitter(timing: Timing, jitter_seconds: float) -> None:
    """Refuse jitter by which ticks could overtake each other.

    Raises:
        InvalidInput: it is negative, too long, or not below the smallest gap between ticks.
    """
    if not 0 <= jitter_seconds <= MAX_JITTER_SECONDS:
        raise InvalidInput(
            f"jitter_seconds is {jitter_seconds!r}: expected 0 to {MAX_JITTER_SECONDS:g}",
            field="jitter_seconds",
        )
    if not jitter_seconds:
        return
    ticks = islice(timing.ticks_after(datetime.now(UTC)), COMPARED_TICKS)
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(ticks)]
    if gaps and jitter_seconds >= min(gaps):
        raise InvalidInput(
            f"jitter_seconds is {jitter_seconds:g}, and ticks come {min(gaps):.15g} s apart: expected less",
            field="jitter_seconds",
        )


def jitter_of(name: str, tick: datetime, jitter_seconds: float) -> timedelta:
    """How long after its tick a schedule is due: the same in every process, another for each tick."""
    if not jitter_seconds:
        return timedelta()
    text = f"{name}\n{(tick - _EPOCH) // _MICROSECOND}"
    share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
    return timedelta(seconds=share * jitter_seconds)


@cache
def zones() -> frozenset[str]:
    """Every IANA zone that is known here, but for names that mean another clock on each machine, or none."""
    return frozenset(zoneinfo.available_timezones()) - {"localtime", "posixrules", "Factory"}


def _check_zone(zone: str) -> None:
    if zone in zones():
        return
    near = difflib.get_close_matches(zone[:MAX_ZONE_CHARS], zones(), n=1)
    hint = f"did you mean {near[0]}?" if near else "expected one such as Europe/Berlin, or UTC"
    raise InvalidInput(
        f"zone is {zone[:80]!r}, which is not the name of an IANA time zone: {hint}", field="zone"
    )


def _check_every(seconds: float) -> None:
    if not math.isfinite(seconds) or not MIN_EVERY_SECONDS <= seconds <= MAX_EVERY_SECONDS:
        raise InvalidInput(
            f"every_seconds is {seconds!r}: expected {MIN_EVERY_SECONDS:.0f} to {MAX_EVERY_SECONDS:.0f} "
            "(366 days)",
            field="every_seconds",
        )


def _cron_problem(cron: str) -> str | None:
    """What is wrong with it as a whole; None: its fields are still to be read."""
    if len(cron) > MAX_CRON_CHARS or not cron.isascii() or not cron.isprintable():
        return f"expected at most {MAX_CRON_CHARS} printable ASCII characters"
    if cron.startswith("@"):
        known = ", ".join(ALIASES)
        return None if cron.lower() in ALIASES else f"expected one of {known}, or five fields"
    fields = len(cron.split())
    if fields == 6:
        return (
            "a sixth field, for seconds, is not taken; leave it out, or use every_seconds for less "
            "than a minute"
        )
    if fields != 5:
        return f"it has {fields} fields, expected five: minute, hour, day, month and weekday"
    return None
