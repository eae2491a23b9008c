"""The Retry-After header (RFC 9110 §10.2.3)."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

MIN_SECONDS: Final = 1.0


def parse_retry_after(
    value: str | None, *, max_seconds: float, now: datetime | None = None
) -> float | None:
    """Seconds to wait, kept between 1 s and `max_seconds`.

    Both forms are read: a number of seconds, and an HTTP-date. None if there is no header, or an invalid
    one.
    """
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        seconds = float(value[:9])
    else:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return min(max(seconds, MIN_SECONDS), max_seconds)
