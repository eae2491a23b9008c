"""Steps of a handler: what is kept of them, and how they are named."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from service.jobs.core.claimed_job import Lease
from service.jobs.core.job import NAME_PATTERN, NAME_RULE
from service.jobs.core.outcomes import PermanentError

MAX_NAME_CHARS: Final = 200
STEP_NAME_RULE: Final = f"1 to {MAX_NAME_CHARS} characters, none of them a control character"
MAX_WAIT: Final = timedelta(days=366)
"""Limit on a sleep, and on a wait for an event."""

_NAME: Final = re.compile(rf"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{{1,{MAX_NAME_CHARS}}}")


class StepError(PermanentError):
    """A step is used wrongly, or its result cannot be kept: a retry would come to the same."""


class EventTimeout(PermanentError, TimeoutError):
    """The event did not come in time. A handler that lets it pass ends its job FAILED: a retry would come to the same."""


class AttemptStopped(Exception):
    """The attempt has lost its lease or was told to stop: nothing more of it is stored."""


class StepKind(StrEnum):
    """What a step does."""

    CALL = "call"
    """It calls a function, and keeps its result."""
    SLEEP = "sleep"
    """It waits for a time."""
    EVENT = "event"
    """It waits for what is sent to the job, and keeps that."""


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A step as the database keeps it."""

    kind: str
    result: str | None = None
    """JSON text; None: null."""
    is_done: bool = True
    """False: it waits."""
    timed_out: bool = False
    """Whether its event did not come in time."""
    seconds_left: float = 0.0
    """How long it had to wait yet when it was read."""

    @property
    def size(self) -> int:
        """How many bytes its result takes."""
        return size_of(self.result)


@dataclass(frozen=True, slots=True)
class NewStep:
    """A step that is done, on its way to the database."""

    lease: Lease
    job_type: str
    name: str
    kind: StepKind
    attempt: int
    seconds: float
    """How long ago it began when it is stored, but for the way to the database."""
    result: str | None = None
    wait_seconds: float | None = None
    """How long it waits from then on; for an event at most. None: it is done."""
    wait_until: datetime | None = None
    """Until when it waits instead, if that is known."""

    @property
    def size(self) -> int:
        """How many bytes its result takes."""
        return size_of(self.result)


def size_of(result: str | None) -> int:
    """How many bytes a result takes as JSON."""
    return 0 if result is None else len(result.encode())


def check_name(name: object) -> None:
    """Refuse what no step may be called.

    Raises:
        StepError: see `STEP_NAME_RULE`.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise StepError(f"{name!r:.100} is not a name of a step: expected {STEP_NAME_RULE}")


def check_event_name(name: object) -> str:
    """The name of an event.

    Raises:
        StepError: it cannot be sent under this name.
    """
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        raise StepError(f"{name!r:.100} is not a name of an event: expected {NAME_RULE}")
    return name


def wait_seconds(duration: float | timedelta, *, what: str) -> float:
    """A duration in seconds.

    Raises:
        StepError: it is not a finite number of 0 to a year.
    """
    try:
        seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    except (OverflowError, TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds <= MAX_WAIT.total_seconds():
        raise StepError(
            f"{what} is {duration!r:.100}: expected seconds or a timedelta, from 0 to {MAX_WAIT.days} days"
        )
    return seconds


def seconds_until(moment: object) -> float:
    """How long it is until then by the clock of this process; 0 if that is past.

    Raises:
        StepError: it is not a time with a zone, or over a year away.
    """
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise StepError(
            f"sleep_until takes a time with a zone, such as datetime.now(UTC), not {moment!r:.100}"
        )
    return wait_seconds(
        max(moment - datetime.now(UTC), timedelta()), what=f"The time until {moment.isoformat()}"
    )
