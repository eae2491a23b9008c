"""Times in a search: `>2026-01-01`, `<1h`, `2026-01-01..2026-02-01`, `2026-01-01`."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

RANGE_RULE: Final = (
    "expected a day such as 2026-01-31, a range such as 2026-01-01..2026-02-01, > or < with a time such "
    "as >2026-01-31T09:00 (UTC unless it has an offset), or an age such as <90s, <15m, <24h, >7d, >2w"
)

Range = tuple[datetime | None, datetime | None]

_AGE: Final = re.compile(r"(?P<sign>-?)(?P<number>\d{1,7})(?P<unit>[smhdw])", re.ASCII)
_UNITS: Final = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def read_range(text: str, *, now: datetime, ahead: bool = False) -> Range | None:
    """The first moment of a range, and the first after it; None for an end that is open.

    `<1h` means less than an hour ago, or with `ahead` in less than an hour. None: the text is not
    one of `RANGE_RULE`.
    """
    try:
        if text[:1] in {"<", ">"}:
            return _open(text[0], text[1:], now=now, ahead=ahead)
        if ".." in text:
            first, _, last = text.partition("..")
            return _moment(first), _moment(last)
        return _day(text)
    except (ValueError, OverflowError):
        return None


def read_moment(text: str, *, now: datetime) -> datetime | None:
    """A time such as 2026-01-31T09:00Z, or in how long it is, such as 10m; None: it is neither."""
    try:
        age = _AGE.fullmatch(text)
        return now + int(age["number"]) * _UNITS[age["unit"]] if age else _moment(text)
    except (ValueError, OverflowError):
        return None


def _open(sign: str, text: str, *, now: datetime, ahead: bool) -> Range:
    if age := _AGE.fullmatch(text):
        span = int(age["number"]) * _UNITS[age["unit"]]
        span = -span if age["sign"] else span
        moment = now + span if ahead else now - span
        later = (sign == ">") == ahead
        return (moment, None) if later else (None, moment)
    moment = _moment(text)
    return (moment, None) if sign == ">" else (None, moment)


def _day(text: str) -> Range:
    if not _DAY.fullmatch(text):
        raise ValueError(text)
    begin = _moment(text)
    return begin, begin + timedelta(days=1)


def _moment(text: str) -> datetime:
    if not _DAY.match(text):
        raise ValueError(text)
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
