"""A cause of dead letters: how many jobs it has killed, and whether somebody has dealt with it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from service.jobs.core.job import JobId

MAX_CAUSES_PER_TYPE: Final = 500
"""Causes of one job type. What fails in yet another way counts for the type's overflow cause."""
MAX_CAUSES: Final = 10_000
"""Causes in all. Job types come from clients: beyond this there is one overflow cause for all types."""
MAX_WORKERS: Final = 20
"""Workers that a cause names, those that saw it last."""
TREND_HOURS: Final = 24
TREND_DAYS: Final = 7
"""How far back deaths are kept by the hour."""

OVERFLOW_TITLE: Final = f"Other causes, beyond the first {MAX_CAUSES_PER_TYPE} of this job type"
OVERFLOW_TITLE_OF_ALL: Final = f"Other causes, beyond the first {MAX_CAUSES:_}".replace("_", " ")


class CauseState(StrEnum):
    """Whether somebody has dealt with a cause."""

    UNRESOLVED = "unresolved"
    RESOLVED = "resolved"
    """It should not happen again; when it does, it is unresolved and `regressed`."""
    IGNORED = "ignored"
    """It may happen: until a time, or for a number of deaths, or for good."""


class CauseSort(StrEnum):
    """In which order causes are listed, the highest first."""

    COUNT = "count"
    LAST_SEEN = "last_seen"


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseFilters:
    """Which causes to list; None means any."""

    states: frozenset[CauseState] | None = None
    job_type: str | None = None
    text: str | None = None
    """A part of the title or of the error's type, upper and lower case alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseGroup:
    """The dead letters of one cause."""

    fingerprint: str
    job_type: str | None
    """None: of many types, see `MAX_CAUSES`."""
    kind: str | None
    """The type of the error; None in an overflow cause."""
    title: str
    """The message without what differs from job to job."""
    is_overflow: bool
    count: int
    """Dead letters in the table now."""
    deaths: int
    """How many there were, those retried and deleted since included."""
    first_seen: datetime
    last_seen: datetime
    state: CauseState
    regressed_at: datetime | None
    """When it failed again after it was resolved; None unless it is unresolved since."""
    sample_id: JobId | None
    """The newest of them; None where all were retried or deleted."""
    workers: tuple[str, ...]
    trend: tuple[int, ...]
    """Deaths by hour, oldest first; the last one is the current hour."""
    changed_at: datetime | None
    changed_by: str | None
    reason: str | None
    ignored_until: datetime | None
    ignored_deaths_left: int | None
    """How many more deaths are ignored; None: their number does not matter."""

    @property
    def regressed(self) -> bool:
        """Whether it failed again after it was resolved."""
        return self.regressed_at is not None
