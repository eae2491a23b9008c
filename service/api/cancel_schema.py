"""The report of a cancel, as the API shows it."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api.field_types import UtcTime

EXAMPLE: Final[dict[str, Any]] = {
    "requested_at": "2026-03-01T09:10:30Z",
    "by": "billing",
    "reason": "the order was withdrawn",
    "seen_at": "2026-03-01T09:10:30.012Z",
    "ended_at": "2026-03-01T09:10:30.030Z",
    "how": "stopped",
}


class CancelOut(BaseModel):
    """Who asked for a job's cancel, and what came of it."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    requested_at: UtcTime | None = Field(None, description="When somebody asked for it first.")
    by: str | None = Field(None, description="Who; `python` where code did.")
    reason: str | None = Field(None, description="Why, if it was said.")
    seen_at: UtcTime | None = Field(
        None,
        description="When the worker that ran the job heard of it. null: before that, or never.",
    )
    ended_at: UtcTime | None = Field(None, description="When the job became CANCELLED.")
    how: str | None = Field(
        None,
        description="What became of its handler: `not_started`; `stopped`; `returned` or `failed` before "
        "it could be stopped; `ignored`: it ran on after `CANCEL_GRACE_SECONDS`, and may do so yet.",
    )


def cancel_out(report: object) -> CancelOut | None:
    """What the column holds; what plain SQL has put there shows as a report without members."""
    if report is None:
        return None
    try:
        return CancelOut.model_validate(report)
    except ValidationError:
        return CancelOut()
