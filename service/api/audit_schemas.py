"""What the audit log is asked for and what it answers, field by field."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.api.cursors import MAX_CURSOR_CHARS
from service.api.field_types import Moment, UtcTime
from service.api.patterns import NO_NUL, PLAIN_NUMBER
from service.audit.model import AuditFilters, Outcome

EXAMPLE: Final[dict[str, Any]] = {
    "id": 1042,
    "at": "2026-03-01T09:00:00Z",
    "actor": "ann",
    "action": "job.retry",
    "subject_type": "job",
    "subject_id": "42",
    "filter": None,
    "before": {"status": "DEAD_LETTER", "attempts": 4, "finished_at": "2026-03-01T08:12:44Z"},
    "after": {"status": "PENDING", "attempts": 0, "next_run_at": "2026-03-01T09:00:00Z"},
    "reason": "the mail server is back",
    "request_id": "5f0c1d2e3b4a5968",
    "address": "10.0.0.7",
    "outcome": "done",
}

Text = Annotated[str, Field(max_length=255, pattern=NO_NUL)]


class AuditFilterQuery(BaseModel):
    """Which entries are asked for."""

    model_config = ConfigDict(extra="forbid")

    actor: Text | None = Field(
        None, description="Exactly this actor: the subject of a token, `api-key:…`, `cli:…`."
    )
    action: Text | None = Field(None, description="Exactly this action, such as `job.retry`.")
    subject_type: Text | None = Field(
        None, description="What it was done to: `job`, `api_key`, `route`, …"
    )
    subject_id: Text | None = Field(None, description="Exactly this one, such as a job's id.")
    outcome: Outcome | None = Field(None, description="`done`, or `refused` with 403.")
    since: Moment | None = Field(None, description="At this time or later.")
    until: Moment | None = Field(None, description="Before this time.")

    @model_validator(mode="before")
    @classmethod
    def _blank_is_unset(cls, values: object) -> object:
        """Forms send `actor=&action=` for fields left empty."""
        if not isinstance(values, Mapping):
            return values
        return {name: value for name, value in values.items() if value not in ("", [""])}

    @model_validator(mode="after")
    def _ordered_range(self) -> Self:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("since must be earlier than until")
        return self

    def named(self) -> dict[str, Any]:
        """The filters as they were given, by parameter: what a cursor belongs to."""
        return self.model_dump(mode="json", exclude={"limit", "cursor"}, exclude_none=True)

    def filters(self) -> AuditFilters:
        """The same for the repository."""
        return AuditFilters(**self.model_dump(exclude={"limit", "cursor"}))


class AuditQuery(AuditFilterQuery):
    """Filters, size and position of one page."""

    limit: Annotated[int, PLAIN_NUMBER] = Field(
        50,
        ge=1,
        le=1000,
        description="Maximum number of entries on the page, up to `MAX_PAGE_SIZE` (200).",
    )
    cursor: Annotated[str, Field(pattern=NO_NUL)] | None = Field(
        None,
        max_length=MAX_CURSOR_CHARS,
        description="`next_cursor` of the page before, with the same filters.",
    )


class AuditEntryOut(BaseModel):
    """What one actor did, or tried to do."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [EXAMPLE]})

    id: int = Field(description="The entry's number; later entries have greater ones.")
    at: UtcTime = Field(description="When it was written, by the database's clock.")
    actor: str = Field(
        description="Who: the subject of a token, `api-key:<prefix>`, `cli:<user>`, or `python` for "
        "code that named nobody."
    )
    action: str = Field(
        description="What, such as `job.retry`, `api_key.create`, `access.refused`."
    )
    subject_type: str = Field(description="What kind of thing it was done to, such as `job`.")
    subject_id: str | None = Field(
        description="Which one. null: many, or none in particular; see `filter`."
    )
    filter: dict[str, Any] | None = Field(description="Which ones, where a filter chose them.")
    before: dict[str, Any] | None = Field(
        description="What the change replaced, by name; null where nothing was. A value that is too "
        'long is cut: `{"$cut": "<its beginning>", "$characters": 12345}`.'
    )
    after: dict[str, Any] | None = Field(description="What it became; null where nothing did.")
    reason: str | None = Field(description="Why, in the words of who did it.")
    request_id: str | None = Field(description="Names the request in the logs.")
    address: str | None = Field(description="Where the request came from; the host of a command.")
    outcome: Outcome = Field(description="`done`, or `refused` with 403.")


class AuditPage(BaseModel):
    """Entries, newest first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"entries": [EXAMPLE], "next_cursor": None}]}
    )

    entries: list[AuditEntryOut] = Field(description="The entries of this page.")
    next_cursor: str | None = Field(
        description="Pass it as `cursor` for the next page. null: this is the last one."
    )
