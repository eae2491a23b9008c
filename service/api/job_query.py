"""The query of a list of jobs, parameter by parameter."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.api.cursors import MAX_CURSOR_CHARS
from service.api.field_types import Moment
from service.api.patterns import NO_NUL, PLAIN_NUMBER
from service.errors import InvalidInput
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import HIGHEST_PRIORITY, LOWEST_PRIORITY, MAX_ID, JobStatus
from service.jobs.core.payload_field import MAX_TEXT_CHARS, PayloadField
from service.jobs.core.search import (
    MAX_PAYLOAD_FIELDS,
    MAX_SEARCH_CHARS,
    MAX_SEARCH_IDS,
    Search,
)

Text = Annotated[str, Field(pattern=NO_NUL)]


def _blank_is_unset(values: object) -> object:
    """Forms send `status=&job_type=` for fields left empty."""
    if not isinstance(values, Mapping):
        return values
    return {name: value for name, value in values.items() if value not in ("", [""], [])}


class JobSelection(BaseModel):
    """Which jobs: the filters of a list, and of an operation on many jobs."""

    model_config = ConfigDict(extra="forbid")

    q: Text | None = Field(
        None,
        max_length=MAX_SEARCH_CHARS,
        description="A search as the dashboard takes it, such as "
        '`status:FAILED type:send_invoice payload.user.id:1 created:<24h "timeout after"`; '
        "what it names must not be given as a parameter too.",
    )
    ids: list[Annotated[int, Field(ge=1, le=MAX_ID), PLAIN_NUMBER]] | None = Field(
        None, max_length=MAX_SEARCH_IDS, description="These jobs: `ids=1&ids=2`."
    )
    status: list[JobStatus] | None = Field(
        None, max_length=len(JobStatus), description="One or several: `status=FAILED&status=…`."
    )
    job_type: Text | None = Field(None, max_length=100, description="Exactly this job type.")
    queue: Text | None = Field(None, max_length=100, description="Exactly this queue.")
    priority: (
        Annotated[int, Field(ge=HIGHEST_PRIORITY, le=LOWEST_PRIORITY), PLAIN_NUMBER] | None
    ) = Field(None, description="Exactly this priority.")
    unique_key: Text | None = Field(None, max_length=255, description="Exactly this key.")
    idempotency_key: Text | None = Field(
        None,
        max_length=255,
        description="Enqueued by a request with exactly this `Idempotency-Key`, as long as that is "
        "kept.",
    )
    concurrency_key: Text | None = Field(
        None, max_length=255, description="Exactly this concurrency key."
    )
    held_for: Text | None = Field(
        None,
        max_length=300,
        description="Held for exactly this, such as `key:customer:7` or `queue:billing`; or for any of a "
        "kind: `key`, `queue`, `rate`, `after`, `unique`; or `*`: held for anything.",
    )
    created_after: Moment | None = Field(None, description="Enqueued at this time or later.")
    created_before: Moment | None = Field(None, description="Enqueued before this time.")
    due_after: Moment | None = Field(
        None, description="`next_run_at` at this time or later; held or not."
    )
    due_before: Moment | None = Field(None, description="`next_run_at` before this time.")
    finished_after: Moment | None = Field(None, description="Ended at this time or later.")
    finished_before: Moment | None = Field(None, description="Ended before this time.")
    worker: Text | None = Field(
        None,
        max_length=200,
        description="Run by the worker of exactly this name, or run last by it before it ended.",
    )
    error: Text | None = Field(
        None, max_length=200, description="A part of `last_error`, in any case of letters."
    )
    fingerprint: Text | None = Field(
        None, max_length=100, description="Dead letters of exactly this cause."
    )
    payload: list[Annotated[Text, Field(max_length=MAX_TEXT_CHARS)]] | None = Field(
        None,
        max_length=MAX_PAYLOAD_FIELDS,
        description="Fields of the payload and their values: `payload=user.id:1&payload=…`. `1`, "
        "`true` and `null` match the JSON value and the string; a value in double quotes matches the "
        "string alone; a number in a path counts into a list, from 0.",
    )
    _unset = model_validator(mode="before")(_blank_is_unset)

    @model_validator(mode="after")
    def _ordered_ranges(self) -> Self:
        for name in ("created", "due", "finished"):
            after, before = getattr(self, f"{name}_after"), getattr(self, f"{name}_before")
            if after is not None and before is not None and after >= before:
                raise ValueError(f"{name}_after must be earlier than {name}_before")
        return self

    def filters(self, now: datetime) -> JobFilters:
        """Which jobs are asked for, by the search and the parameters together.

        Raises:
            InvalidInput: the search or a payload field cannot be read, or something is given twice.
        """
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in JobFilters.__slots__
            if name not in {"statuses", "payload"} and getattr(self, name) is not None
        }
        if self.status is not None:
            given["statuses"] = frozenset(self.status)
        try:
            if self.payload is not None:
                given["payload"] = tuple(map(PayloadField.parse, self.payload))
            searched = Search.parse(self.q or "").filters(now)
        except InvalidInput as error:
            raise InvalidInput(error.detail, field=f"query.{error.field}") from None
        if twice := sorted(searched.active() & given.keys()):
            raise InvalidInput(
                f"{' and '.join(twice)} is in q and a parameter of its own: give it once",
                field="query.q",
            )
        return JobFilters(**given, **{name: getattr(searched, name) for name in searched.active()})


class JobQuery(JobSelection):
    """Filters, size and position of one page."""

    limit: Annotated[int, PLAIN_NUMBER] = Field(
        50,
        ge=1,
        le=1000,
        description="Maximum number of jobs on the page, up to `MAX_PAGE_SIZE` (200).",
    )
    cursor: Text | None = Field(
        None,
        max_length=MAX_CURSOR_CHARS,
        description="`next_cursor` of the page before, with the same filters.",
    )

    def named(self) -> dict[str, Any]:
        """The filters as they were given, by parameter: what a cursor belongs to."""
        return self.model_dump(mode="json", exclude={"limit", "cursor"}, exclude_none=True)


def parameters(filters: JobFilters) -> list[tuple[str, str]]:
    """The parameters of the list that ask for exactly these jobs."""
    found: list[tuple[str, str]] = []
    for name in JobFilters.__slots__:
        value = getattr(filters, name)
        if value is None:
            continue
        if name == "statuses":
            found += [("status", status.value) for status in sorted(value)]
        elif name in {"ids", "payload"}:
            found += [(name, str(one)) for one in value]
        else:
            found.append((name, value.isoformat() if isinstance(value, datetime) else str(value)))
    return found
