"""Operations as operators send and get them, field by field."""

from datetime import datetime
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.api.field_types import Name, PlannedTime, Priority, Retries, UtcTime
from service.api.job_schemas import JobSummaryOut
from service.api.patterns import NO_NUL, PLAIN_NUMBER
from service.errors import InvalidInput
from service.jobs.actions.many import Skipped
from service.jobs.core.bulk_action import BulkAction, Verb
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import MAX_ID
from service.jobs.core.redaction import redact_for_any
from service.jobs.read.waiting import Waiting
from service.operations import starting
from service.operations.model import Canary, Operation, OperationState
from service.operations.selection import MAX_IDS, Selection

MAX_RATE: Final = 100_000.0
MAX_CANARY_JOBS: Final = 1_000
MAX_REASON_CHARACTERS: Final = 500

EXAMPLE: Final[dict[str, Any]] = {
    "action": "retry",
    "filter": {"job_type": "send_invoice", "error": "the mail server did not answer"},
    "rate": 50,
    "canary": {"jobs": 20, "max_failed_percent": 5, "wait_seconds": 120},
    "reason": "the mail server is back",
}
EXAMPLE_OUT: Final[dict[str, Any]] = {
    "id": 12,
    "action": "retry",
    "parameters": {},
    "filter": {
        "status": ["DEAD_LETTER", "FAILED"],
        "job_type": "send_invoice",
        "error": "the mail server did not answer",
    },
    "state": "running",
    "note": None,
    "expected": 1204,
    "expected_exact": True,
    "changed": 300,
    "skipped": {"unique_key": 2},
    "rate": 50.0,
    "canary": {"jobs": 20, "max_failed_percent": 5.0, "wait_seconds": 120.0},
    "canary_state": "passed",
    "actor": "olga",
    "reason": "the mail server is back",
    "job_id": 4711,
    "started_at": "2026-03-01T09:10:31Z",
    "finished_at": None,
}

Reason = Annotated[
    str | None,
    Field(max_length=MAX_REASON_CHARACTERS, pattern=NO_NUL, description="Why, for the audit log."),
]


class EditIn(BaseModel):
    """How each job is changed as it is retried."""

    model_config = ConfigDict(extra="forbid")

    payload_merge: dict[str, Any] | None = Field(
        None,
        description="A JSON merge patch (RFC 7396) for the payload of each job: members are set, null "
        "removes one. The payload before stays in the job's history.",
    )
    max_retries: Retries | None = Field(None, description="Retries after the next attempt.")


class CanaryIn(BaseModel):
    """The first jobs, whose fate decides whether the others follow."""

    model_config = ConfigDict(extra="forbid")

    jobs: int = Field(ge=1, le=MAX_CANARY_JOBS, description="How many are retried first.")
    max_failed_percent: float = Field(
        0, ge=0, le=100, description="The operation stops when more than this share fails again."
    )
    wait_seconds: float = Field(
        300,
        gt=0,
        le=86_400,
        description="How long they may take. The operation stops when some have not ended by then.",
    )


class SelectionIn(BaseModel):
    """An action, its values, and the jobs that it is for."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    action: Verb = Field(description="What is done to each job.")
    filter: Selection | None = Field(
        None,
        description="Which jobs, by the names of the query parameters of `GET /admin/jobs`; each is "
        "one value or a list. A status that the action is not for is left out.",
    )
    ids: (
        Annotated[
            list[Annotated[int, Field(ge=1, le=MAX_ID), PLAIN_NUMBER]],
            Field(min_length=1, max_length=MAX_IDS),
        ]
        | None
    ) = Field(None, description="These jobs, in place of a filter.")
    group: str | None = Field(
        None,
        max_length=100,
        pattern=NO_NUL,
        description="The dead letters of this cause, by its fingerprint, in place of a filter.",
    )
    all: bool = Field(False, description="That an empty filter is meant: every job.")
    edit: EditIn | None = Field(None, description="For `retry`: how each job is changed.")
    run_at: PlannedTime | None = Field(
        None, description="For `reschedule` and `retry`: when the jobs are due."
    )
    queue: Name | None = Field(None, description="For `move`: the queue that they wait in.")
    priority: Priority | None = Field(None, description="For `set_priority`: 0 to 9.")
    rate: float | None = Field(
        None,
        gt=0,
        le=MAX_RATE,
        description="Limit on jobs per second; 2,500 without, and fewer where the server is busy.",
    )
    canary: CanaryIn | None = Field(None, description="For `retry`: some jobs first.")
    reason: Reason = None

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        given = [name for name in ("filter", "ids", "group") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given: give one")
        return self

    def filters(self, now: datetime) -> JobFilters:
        """Which jobs; times such as `<1h` count from `now`.

        Raises:
            InvalidInput: the search or a payload field cannot be read.
        """
        if self.ids is not None:
            return JobFilters(ids=frozenset(self.ids))
        if self.group is not None:
            return JobFilters(fingerprint=self.group)
        if self.filter is None:
            return JobFilters()
        try:
            return self.filter.filters(now)
        except InvalidInput as error:
            field = (error.field or "").removeprefix("query.")
            raise InvalidInput(error.detail, field=f"body.filter.{field}") from None

    def request(self, now: datetime) -> starting.OperationRequest:
        """The same for the slice.

        Raises:
            InvalidInput: the search or a payload field cannot be read.
        """
        edit = self.edit or EditIn()
        return starting.OperationRequest(
            action=BulkAction(
                verb=self.action,
                run_at=self.run_at,
                queue=self.queue,
                priority=self.priority,
                max_retries=edit.max_retries,
                payload_merge=edit.payload_merge,
            ),
            filters=self.filters(now),
            all_jobs=self.all,
            rate=self.rate,
            canary=None if self.canary is None else Canary(**self.canary.model_dump()),
            reason=self.reason,
        )


class ReasonIn(BaseModel):
    """Why; the body may be left out."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "wrong queue"}]}
    )

    reason: Reason = None


class CostOut(BaseModel):
    """What an operation takes."""

    seconds: float = Field(
        description="About how long it runs, at its rate; without the canary's wait."
    )


class PreviewOut(BaseModel):
    """What an operation would act on."""

    count: int = Field(description="Jobs that match now.")
    exact: bool = Field(description="False: there are at least `count`.")
    sample: list[JobSummaryOut] = Field(description="The newest of them, 5 at most.")
    cost: CostOut


class SkippedOut(BaseModel):
    """A job that was not acted on."""

    model_config = ConfigDict(from_attributes=True)

    job_id: int
    reason: str = Field(
        description="`unique_key`, `payload`, `row`, `too_slow`, `locked`, `changed_meanwhile`, "
        "`own_job`; of jobs named by id also `no_such_job`, `status` and `later`."
    )
    detail: str = Field(description="The same in words.")


class OperationOut(BaseModel):
    """An operation, and how far it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_OUT]})

    id: int
    action: Verb
    parameters: dict[str, Any] = Field(description="The values of the action.")
    filter: dict[str, Any] = Field(description="Which jobs, as it was fixed at the start.")
    state: OperationState = Field(
        description="`stopped`: by its canary. `failed`: the job that carries it out died; resume it."
    )
    note: str | None = Field(description="Why it is in its state.")
    expected: int = Field(description="Jobs that matched when it was started.")
    expected_exact: bool = Field(description="False: there were at least `expected`.")
    changed: int = Field(description="Jobs that it has acted on.")
    skipped: dict[str, int] = Field(description="Jobs that it has not acted on, by reason.")
    rate: float | None = Field(description="Limit on jobs per second; null: 2,500.")
    canary: CanaryIn | None
    canary_state: str | None = Field(
        description="`trying`, `waiting` for the fate of the first jobs, `passed`; null: no canary."
    )
    actor: str = Field(description="Who started it.")
    reason: str | None
    job_id: int | None = Field(description="The job that carries it out.")
    started_at: UtcTime
    finished_at: UtcTime | None

    @classmethod
    def members(cls, operation: Operation) -> dict[str, Any]:
        """The members of an answer."""
        canary = operation.canary
        return {
            name: getattr(operation, name)
            for name in cls.model_fields
            if name not in {"action", "parameters", "canary", "canary_state"}
            and hasattr(operation, name)
        } | {
            "action": operation.action.verb,
            "parameters": redact_for_any(operation.action.values()),
            "canary": None
            if canary is None
            else {
                "jobs": canary.jobs,
                "max_failed_percent": canary.max_failed_percent,
                "wait_seconds": canary.wait_seconds,
            },
            "canary_state": operation.canary_state,
        }

    @classmethod
    def of(cls, operation: Operation) -> Self:
        """The operation as it is listed."""
        return cls.model_validate(cls.members(operation))


class OperationDetail(OperationOut):
    """An operation with the jobs that it skipped."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                EXAMPLE_OUT
                | {
                    "waiting_for": None,
                    "skipped_jobs": [
                        {
                            "job_id": 41,
                            "reason": "unique_key",
                            "detail": "job 44 has its unique_key, and is live",
                        }
                    ],
                }
            ]
        }
    )

    waiting_for: Waiting | None = Field(
        description="What its job waits for: `worker`: none runs; `queue_paused`: the queue `finmind` is "
        "paused; `time`: it rests by its rate, between looks at its canary, or before its next attempt. null: "
        "it works, or waits for a free slot."
    )
    skipped_jobs: list[SkippedOut] = Field(description="The first 1,000 jobs that it skipped.")

    @classmethod
    def whole(
        cls, operation: Operation, *, skipped: list[Skipped], waiting_for: Waiting | None
    ) -> Self:
        """The operation with all that is known of it."""
        members = cls.members(operation) | {"skipped_jobs": skipped, "waiting_for": waiting_for}
        return cls.model_validate(members)


class OperationPage(BaseModel):
    """One page of operations, newest first."""

    operations: list[OperationOut]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")
