"""Every column of a job, declared once.

These are built from the list: what the ENQUEUE statements insert and the arrays that they take
(`store.enqueue`), what a job takes along to another partition (`store.fragments`), and what the
operators' lists show (`store.listing`).

A new column is one line here and its migration, and where clients give or see it a member of
`NewJob` with a rule (`new_job`), of `BackgroundJob` and of the API's schemas.
`tests/jobs/core/test_fields.py` names what was forgotten.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from service.jobs.core.job import DEFAULT_PRIORITY, DEFAULT_QUEUE


class Kept(Enum):
    """How long a job keeps what a column holds."""

    ALWAYS = auto()
    UNTIL_RETRIED = auto()
    """A retry by hand starts again with the column's default."""
    WHILE_LIVE = auto()


@dataclass(frozen=True, slots=True)
class Input:
    """A value that a new job gives: an array of the ENQUEUE statements."""

    name: str
    """Of the attribute of `NewJob`."""
    type: str
    default: str | float | None = None
    """What counts where a job gives None; the column has the same default."""
    optional: bool = False
    """Whether statements leave the column out while no job gives it: those who enqueue by Python
    then need neither the column nor the right to fill it."""

    @property
    def array_type(self) -> str:
        """The type of the array; JSON travels as text."""
        return "text[]" if self.type == "jsonb" else f"{self.type}[]"


@dataclass(frozen=True, slots=True)
class JobField:
    """A column of `background_jobs`."""

    name: str
    type: str
    kept: Kept = Kept.ALWAYS
    listed: bool = False
    """Whether the operators' lists show it."""
    inputs: tuple[Input, ...] = ()
    """What a new job gives for it; nothing: the database fills it."""


def _given(
    name: str,
    column_type: str,
    *,
    default: str | float | None = None,
    listed: bool = False,
    optional: bool = False,
) -> JobField:
    """A column that a new job gives under the same name."""
    given = Input(name, column_type, default, optional)
    return JobField(name, column_type, listed=listed, inputs=(given,))


_DUE: Final = (Input("run_at", "timestamptz"), Input("delay_seconds", "float8", 0.0))

FIELDS: Final = (
    JobField("id", "bigint", listed=True),
    JobField("created_at", "timestamptz", listed=True),
    JobField("next_run_at", "timestamptz", listed=True, inputs=_DUE),
    JobField("started_at", "timestamptz", Kept.UNTIL_RETRIED, listed=True),
    JobField("finished_at", "timestamptz", Kept.UNTIL_RETRIED, listed=True),
    JobField("lease_until", "timestamptz", Kept.WHILE_LIVE),
    JobField("lease_token", "bigint", Kept.UNTIL_RETRIED),
    JobField("worker_id", "bigint", Kept.UNTIL_RETRIED, listed=True),
    _given("timeout_seconds", "float8"),
    _given("priority", "smallint", default=DEFAULT_PRIORITY, listed=True),
    JobField("attempts", "smallint", Kept.UNTIL_RETRIED, listed=True),
    _given("max_retries", "smallint", listed=True),
    JobField("lost_leases", "smallint", Kept.UNTIL_RETRIED),
    _given("queue", "text", default=DEFAULT_QUEUE, listed=True),
    _given("job_type", "text", listed=True),
    JobField("status", "text", Kept.UNTIL_RETRIED, listed=True),
    _given("unique_key", "text", listed=True),
    JobField("last_error", "text", listed=True),
    _given("payload", "jsonb", default="{}"),
    JobField("result", "jsonb", Kept.UNTIL_RETRIED),
    JobField("progress", "jsonb", Kept.UNTIL_RETRIED),
    _given("backoff", "jsonb"),
    JobField("errors", "jsonb"),
    _given("enqueued_by", "text", optional=True),
    JobField("fingerprint", "text", Kept.UNTIL_RETRIED),
    _given("concurrency_key", "text", listed=True, optional=True),
    JobField("permits", "text[]", Kept.WHILE_LIVE),
    JobField("held_for", "text", Kept.WHILE_LIVE, listed=True),
    JobField("held_since", "timestamptz", Kept.WHILE_LIVE),
    JobField("held_due_at", "timestamptz", Kept.WHILE_LIVE),
    JobField("has_children", "boolean"),
    JobField("cancel", "jsonb", Kept.UNTIL_RETRIED),
    _given("batch_id", "bigint", listed=True, optional=True),
    _given("unique_until_start", "text", optional=True),
    _given("callback", "jsonb", optional=True),
    _given("result_ttl_seconds", "float8", optional=True),
)
"""In the order of the table."""

INPUTS: Final = tuple(given for field in FIELDS for given in field.inputs)

MOVED: Final = tuple(field.name for field in FIELDS if field.kept is not Kept.WHILE_LIVE)
"""What a job takes along when it ends."""

RETRIED: Final = tuple(field.name for field in FIELDS if field.kept is Kept.ALWAYS)
"""What a job takes along when it is retried by hand."""

LISTED: Final = tuple(field.name for field in FIELDS if field.listed)
"""What lists show; payloads, results and histories stay where they are."""
