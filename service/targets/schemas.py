"""What `/targets` shows and takes, field by field."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.field_types import Reason, UtcTime

EXAMPLE: Final[dict[str, Any]] = {
    "name": "crm.example.com:443",
    "state": "open",
    "opened_at": "2026-03-01T09:00:00Z",
    "retry_at": "2026-03-01T09:02:00Z",
    "openings": 2,
    "last_error": "answered 503 Service Unavailable",
    "last_failure_at": "2026-03-01T09:01:00Z",
    "last_success_at": "2026-03-01T08:59:58Z",
    "succeeded": 4711,
    "failed": 12,
    "used_at": "2026-03-01T09:01:00Z",
    "held": 38,
}


class TargetOut(BaseModel):
    """A host and port that `http.request` jobs were sent to."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [EXAMPLE]})

    name: str = Field(description="Host and port.")
    state: Literal["closed", "open", "half_open"] = Field(
        description="Of its breaker. `closed`: requests are sent. `open`: it keeps failing, and its jobs are held. "
        "`half_open`: the next request tries it, or does so now."
    )
    opened_at: UtcTime | None = Field(description="Since when it fails. null: it is closed.")
    retry_at: UtcTime | None = Field(description="When the next request tries it.")
    openings: int = Field(description="How often it was tried in vain since then.")
    last_error: str | None = Field(description="What it failed of last.")
    last_failure_at: UtcTime | None = Field(description="When it failed last.")
    last_success_at: UtcTime | None = Field(description="When it answered last.")
    succeeded: int = Field(description="Requests that it answered, with whatever status but 5xx.")
    failed: int = Field(description="Requests that it answered with 5xx, or not.")
    used_at: UtcTime = Field(
        description="When a request was sent last. Those of 7 days are listed."
    )
    held: int = Field(description="Jobs that are held for it; up to 1,000 are counted.")


class TargetPageOut(BaseModel):
    """One page of targets, by name."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={"examples": [{"targets": [EXAMPLE], "next_cursor": None}]},
    )

    targets: list[TargetOut]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")


class ResetIn(BaseModel):
    """Why."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "the CRM is back"}]}
    )

    reason: Reason | None = Field(None, description="For the audit log.")
