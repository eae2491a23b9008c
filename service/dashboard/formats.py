"""How pages write numbers, times and durations: filters of the templates."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


def now() -> datetime:
    """The moment that relative times of a page are counted from."""
    return datetime.now(UTC)


def number(value: int) -> str:
    """Exact, in groups of three: 1 234 567, with spaces that do not break."""
    return f"{value:,}".replace(",", "\u202f")


def capped(value: int, *, exact: bool) -> str:
    """A count that stopped at its limit says so: `10 000+`."""
    return number(value) if exact else f"{number(value)}+"


def duration(seconds: float | None) -> str:
    """`–`, `3 ms`, `1.25 s`, `2 min 5 s`, `3 h 4 min`, `5 d 6 h`; never negative."""
    if seconds is None or math.isnan(seconds):
        return "–"
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    if math.isinf(seconds):
        return "for ever"
    whole = int(seconds)
    for size, unit in _UNITS:
        if whole >= size:
            rest, (smaller, name) = whole % size, _smaller(unit)
            more = f" {rest // smaller} {name}" if rest >= smaller else ""
            return f"{whole // size} {unit}{more}"
    return f"{whole} s"


def _smaller(unit: str) -> tuple[int, str]:
    return {"d": (3_600, "h"), "h": (60, "min"), "min": (1, "s")}[unit]


def moment(value: datetime | None) -> Markup:
    """A time; `page.js` writes it in the reader's zone, UTC stays on hover."""
    if value is None:
        return Markup("–")
    utc = value.astimezone(UTC)
    text = utc.strftime("%Y-%m-%d %H:%M:%S")
    return Markup('<time datetime="{}" title="{} UTC" data-time>{} UTC</time>').format(
        utc.isoformat().replace("+00:00", "Z"), text, text
    )


def ago(value: datetime | None) -> Markup:
    """How long ago a time is, or how far ahead, in whole seconds; the time itself on hover."""
    if value is None:
        return Markup("–")
    utc = value.astimezone(UTC)
    seconds = (now() - utc).total_seconds()
    away = duration(float(int(abs(seconds))))
    words = "just now" if abs(seconds) < 1 else f"{away} ago" if seconds > 0 else f"in {away}"
    if utc.year in {1, 9999}:  # infinity, as far as Python's calendar goes
        words = "never" if utc.year == 9999 else "before all time"
    return Markup('<time datetime="{}" title="{} UTC" data-ago>{}</time>').format(
        utc.isoformat().replace("+00:00", "Z"), utc.strftime("%Y-%m-%d %H:%M:%S"), words
    )


def percent(share: float | None) -> str:
    """`–`, `0 %`, `0.4 %`, `12 %`: a share of 1."""
    if share is None:
        return "–"
    value = share * 100
    return f"{value:.1f} %" if 0 < value < 10 else f"{value:.0f} %"


def rate(value: float) -> str:
    """How many in a time: `0`, `0.02`, `3.4`, `1 200`."""
    if value >= 10:
        return number(round(value))
    return f"{value:.2g}" if value >= 0.01 else ("0" if value <= 0 else "< 0.01")


def status_class(status: str) -> str:
    """The class that colours a status, and never the only sign of it."""
    return f"status-{status.lower().replace('_', '-')}"


FILTERS: Final[dict[str, Callable[..., object]]] = {
    "number": number,
    "capped": capped,
    "duration": duration,
    "moment": moment,
    "ago": ago,
    "percent": percent,
    "rate": rate,
    "status_class": status_class,
}
