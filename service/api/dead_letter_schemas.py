"""What operators ask and get of the causes of dead letters, field by field."""

from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field

from service.api.cursors import MAX_CURSOR_CHARS
from service.api.field_types import PlannedTime, UtcTime
from service.api.job_query import Text
from service.api.patterns import PLAIN_NUMBER
from service.jobs.core.causes import (
    MAX_CAUSES_PER_TYPE,
    MAX_WORKERS,
    TREND_DAYS,
    TREND_HOURS,
    CauseFilters,
    CauseGroup,
    CauseSort,
    CauseState,
)
from service.jobs.core.job import MAX_ID

EXAMPLE: Final[dict[str, Any]] = {
    "fingerprint": "c0ffee0123456789",
    "title": "no answer from # within # s",
    "kind": "TimeoutError",
    "job_type": "send_invoice",
    "count": 8341,
    "deaths": 9020,
    "first_seen": "2026-03-01T02:10:00Z",
    "last_seen": "2026-03-01T09:09:58Z",
    "state": "unresolved",
    "regressed": False,
    "regressed_at": None,
    "sample_id": 4711,
    "workers": ["web-1:831:c0ffee"],
    "trend": [0] * (TREND_HOURS - 2) + [8100, 920],
    "is_overflow": False,
    "changed_at": None,
    "changed_by": None,
    "reason": None,
    "ignored_until": None,
    "ignored_count_left": None,
}
MAX_REASON_CHARS: Final = 500


class GroupQuery(BaseModel):
    """Filters, order, size and position of one page."""

    model_config = ConfigDict(extra="forbid")

    state: list[CauseState] | None = Field(
        None, max_length=len(CauseState), description="One or several."
    )
    job_type: Text | None = Field(None, max_length=100, description="Exactly this job type.")
    text: Text | None = Field(
        None,
        max_length=200,
        description="A part of the title or of the error's type, in any case of letters.",
    )
    sort: CauseSort = Field(CauseSort.COUNT, description="The highest first.")
    limit: Annotated[int, PLAIN_NUMBER] = Field(
        50, ge=1, le=200, description="Maximum number of groups on the page."
    )
    cursor: Text | None = Field(
        None,
        max_length=MAX_CURSOR_CHARS,
        description="`next_cursor` of the page before, with the same filters and order.",
    )

    def named(self) -> dict[str, Any]:
        """The filters and the order as they were given: what a cursor belongs to."""
        return self.model_dump(mode="json", exclude={"limit", "cursor"}, exclude_none=True)

    def filters(self) -> CauseFilters:
        """The same for the engine."""
        states = None if self.state is None else frozenset(self.state)
        return CauseFilters(states=states, job_type=self.job_type, text=self.text)


class DecisionIn(BaseModel):
    """Why."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "fixed in release 7"}]}
    )

    reason: Text | None = Field(
        None, max_length=MAX_REASON_CHARS, description="For the group and the audit log."
    )


class IgnoreIn(DecisionIn):
    """Why, and for how long; without `until` and `count` for good."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"until": "2026-03-08T00:00:00Z", "reason": "the supplier is down"}]
        },
    )

    until: PlannedTime | None = Field(None, description="Unresolved again at this time.")
    count: int | None = Field(
        None,
        ge=1,
        le=MAX_ID,
        strict=True,
        description="Unresolved again when more than so many further jobs have died of it.",
    )


class GroupOut(BaseModel):
    """The dead letters of one cause."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [EXAMPLE]})

    fingerprint: str = Field(description="What its jobs have in common: a filter of the lists.")
    title: str = Field(
        description="Their error's message, without numbers, ids, quoted parts and addresses."
    )
    kind: str | None = Field(description="The type of their error; null: several.")
    job_type: str | None = Field(description="Their job type; null: several.")
    count: int = Field(description="Dead letters of it that are in the table now.")
    deaths: int = Field(
        description="How many there were, those retried and deleted since included."
    )
    first_seen: UtcTime = Field(description="When the first of them died.")
    last_seen: UtcTime = Field(description="When the last of them died.")
    state: CauseState = Field(description="Whether somebody has dealt with it.")
    regressed: bool = Field(description="Whether a job died of it after it was resolved.")
    regressed_at: UtcTime | None = Field(description="When that was.")
    sample_id: int | None = Field(description="The newest of its dead letters; null: none is left.")
    workers: list[str] = Field(
        description=f"The workers whose jobs died of it, newest first, up to {MAX_WORKERS}."
    )
    trend: list[int] = Field(
        description=f"Deaths by hour, oldest first; the last is the current hour. {TREND_HOURS} hours in a "
        f"list, {TREND_DAYS} days of a single group."
    )
    is_overflow: bool = Field(
        description="Whether it holds all causes beyond the first "
        f"{MAX_CAUSES_PER_TYPE} of its job type."
    )
    changed_at: UtcTime | None = Field(description="When somebody last set its state.")
    changed_by: str | None = Field(description="Who.")
    reason: str | None = Field(description="Why.")
    ignored_until: UtcTime | None = Field(description="When it is unresolved again.")
    ignored_count_left: int | None = Field(
        description="How many more deaths are ignored; null: their number does not matter."
    )

    @classmethod
    def of(cls, group: CauseGroup) -> Self:
        """As read from the kept counts."""
        values = {
            name: getattr(group, name) for name in cls.model_fields if name != "ignored_count_left"
        }
        return cls(**values, ignored_count_left=group.ignored_deaths_left)


class GroupPageOut(BaseModel):
    """One page of a list."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"groups": [EXAMPLE], "next_cursor": None}]}
    )

    groups: list[GroupOut] = Field(description="The highest first.")
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")
