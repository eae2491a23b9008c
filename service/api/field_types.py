"""The types of fields that many requests and answers share."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import Query
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

from service.api.patterns import NO_NUL
from service.jobs.core.job import HIGHEST_PRIORITY, LOWEST_PRIORITY, NAME_PATTERN
from service.jobs.core.new_job import EARLIEST, LATEST

_LOST_PLUS: Final = re.compile(r" (\d\d:?\d\d)$")


def _iso_text(value: object) -> object:
    """Only text: a bare number would be taken for seconds or milliseconds, by its size."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\d", value):
        raise ValueError("expected a time like 2026-03-01T09:00:00Z")
    # In a query string an unescaped + arrives as a space.
    return _LOST_PLUS.sub(r"+\1", value)


def _whole_number(value: object) -> object:
    """4.0 is the integer 4 in JSON; text and true are none, however lax the validator."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE: Final = BeforeValidator(_whole_number)
"""Of a whole number with bounds: `Annotated[int, Field(strict=True, ge=1), WHOLE]`."""
WholeNumber = Annotated[int, Field(strict=True), WHOLE]
Priority = Annotated[int, Field(strict=True, ge=HIGHEST_PRIORITY, le=LOWEST_PRIORITY), WHOLE]
Retries = Annotated[int, Field(strict=True, ge=0, le=1000), WHOLE]

MAX_REASON_CHARS: Final = 500
Reason = Annotated[str, Field(max_length=MAX_REASON_CHARS, pattern=NO_NUL)]
"""Why something is done, in the body of a request."""
ReasonGiven = Annotated[
    str | None,
    Query(max_length=MAX_REASON_CHARS, pattern=NO_NUL, description="Why, for the audit log."),
]
"""The same where the request has no body."""


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(
            f"{moment.isoformat()} is outside the years 1 to 9999 in UTC: give a time within them"
        ) from None


def _in_reach(moment: datetime) -> datetime:
    if not EARLIEST <= moment <= LATEST:
        raise ValueError("expected a time between the years 2000 and 2200")
    return moment


def _with_zone(moment: datetime) -> datetime:
    # What the driver makes of PostgreSQL's infinity, which plain SQL may have put there, has none.
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


Moment = Annotated[AwareDatetime, BeforeValidator(_iso_text), AfterValidator(_in_utc)]
"""A time that is asked about: ISO 8601 with a time zone, any that there is in UTC."""
PlannedTime = Annotated[Moment, AfterValidator(_in_reach)]
"""A time at which something is to happen."""
UtcTime = Annotated[datetime, AfterValidator(_with_zone)]
"""A time in an answer."""

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=100)]
