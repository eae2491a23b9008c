"""New jobs as clients send them, field by field."""

from typing import Annotated, Any, Final, Self

from fastapi.openapi.models import Example
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from service.api.field_types import Name, PlannedTime, Priority, Retries
from service.errors import InvalidInput
from service.jobs.core.backoff import MAX_DELAY_SECONDS, Backoff
from service.jobs.core.callback import MAX_SECRET_NAME_CHARS, MAX_URL_CHARS
from service.jobs.core.concurrency_key import check_readable, key_of
from service.jobs.core.dependencies import MAX_PARENTS, OnParentFailure
from service.jobs.core.encryption import MAX_FIELDS, Sealing, both, check_unread, sealing_of
from service.jobs.core.job import (
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    HIGHEST_PRIORITY,
    LOWEST_PRIORITY,
    MAX_ID,
    JobId,
)
from service.jobs.core.job_types import DEFAULTS, encrypted_of, policies
from service.jobs.core.new_job import MAX_DELAY_YEARS_SECONDS, NewJob
from service.jobs.core.unique_by import MAX_PARTS, key_by
from service.jobs.core.unique_key import (
    DEFAULT_DEBOUNCE_MAX_SECONDS,
    MAX_HOLD_SECONDS,
    OPTIONS,
    OnConflict,
    UniqueScope,
)

EXAMPLE_IN: Final[dict[str, Any]] = {
    # One that succeeds where nothing but the demo's handlers is loaded: people press "Try it out".
    "job_type": "demo.ok",
    "payload": {"number": 4711},
    "unique_key": "demo-4711",
}
EXAMPLES_IN: Final[dict[str, Example]] = {
    "now": {
        "summary": "Now",
        "description": "With a `unique_key`: enqueued again while it waits or runs, the existing job is returned.",
        "value": EXAMPLE_IN,
    },
    "later": {
        "summary": "At a time",
        "description": "`run_at` has a time zone; `delay_seconds` counts from now.",
        "value": {"job_type": "demo.ok", "run_at": "2030-01-31T09:00:00+01:00"},
    },
    "patient": {
        "summary": "With its own retries",
        "description": "Retried after about 10, 20, 40, 60 and 60 seconds.",
        "value": {
            "job_type": "demo.ok",
            "max_retries": 5,
            "backoff": {"base_seconds": 10, "factor": 2, "cap_seconds": 60, "jitter": 0.1},
        },
    },
    "newest": {
        "summary": "The newest payload",
        "description": "While a job with this key waits, it gets this payload and is due in 30 s again.",
        "value": {
            "job_type": "demo.ok",
            "payload": {"number": 4712},
            "unique_key": "demo-newest",
            "delay_seconds": 30,
            "on_conflict": "replace",
        },
    },
    "once": {
        "summary": "Once, however often it is sent",
        "description": "With the header `Idempotency-Key: order-4711` a repeated request returns "
        "the job that the first one created, even when that has ended.",
        "value": {"job_type": "demo.ok", "payload": {"number": 4711}},
    },
}
_BOTH_TIMES: Final[dict[str, Any]] = {
    "required": ["run_at", "delay_seconds"],
    "properties": {"run_at": {"type": "string"}, "delay_seconds": {"type": "number"}},
}
"""What no job may have: two times at which it is due."""
_ADDED: Final = frozenset(
    {
        "concurrency_key", "after", "on_parent_failure", "batch_id", "encrypt", "callback",
        "result_ttl_seconds", *OPTIONS,
    }
)  # fmt: skip
"""Members of a new job that the version before lacks."""


def _checked(given: object) -> object:
    try:
        sealing_of(given)
    except InvalidInput as error:
        raise ValueError(error.detail) from None
    return given


EncryptIn = Annotated[
    bool | Annotated[list[str], Field(max_length=MAX_FIELDS)], BeforeValidator(_checked)
]


class BackoffIn(BaseModel):
    """Delays between the attempts of one job: `base_seconds · factor^(retry-1)`."""

    model_config = ConfigDict(extra="forbid")

    base_seconds: float = Field(
        30.0, ge=0, le=MAX_DELAY_SECONDS, strict=True, description="Delay before the first retry."
    )
    factor: float = Field(
        4.0, ge=1, le=100, strict=True, description="Factor by which each further delay grows."
    )
    cap_seconds: float = Field(
        3600.0, ge=0, le=MAX_DELAY_SECONDS, strict=True, description="The longest delay."
    )
    jitter: float = Field(
        0.1, ge=0, le=1, strict=True, description="Share by which delays vary up and down."
    )


class CallbackIn(BaseModel):
    """Whom to tell of a job's end."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"url": "https://shop.example.com/jobs"}]}
    )

    url: str = Field(
        max_length=MAX_URL_CHARS,
        description="`http://` or `https://`; the job's id, status and short results are sent there by POST.",
    )
    sign_with: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_SECRET_NAME_CHARS,
        description="The name of a secret in `TARGET_SECRETS`: the call is signed by Standard Webhooks.",
    )


class JobIn(BaseModel):
    """A job to be enqueued."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [EXAMPLE_IN], "not": _BOTH_TIMES}
    )

    job_type: Name = Field(description="The name that its handler is registered under.")
    payload: dict[str, Any] = Field(
        default_factory=dict, description="Any JSON object; passed to the handler."
    )
    queue: Name | None = Field(
        None,
        description=f"The queue that it waits in; default the handler's own, else `{DEFAULT_QUEUE}`.",
    )
    priority: Priority = Field(
        DEFAULT_PRIORITY,
        description=f"{HIGHEST_PRIORITY} (most urgent) to {LOWEST_PRIORITY}.",
    )
    max_retries: Retries | None = Field(
        None,
        description="Retries after the first attempt; default those of the handler, else "
        "`DEFAULT_MAX_RETRIES` (3).",
    )
    timeout_seconds: float | None = Field(
        None,
        gt=0,
        le=86_400,
        strict=True,
        description="Timeout of one attempt; default that of the handler, else "
        "`DEFAULT_TIMEOUT_SECONDS` (300).",
    )
    run_at: PlannedTime | None = Field(
        None,
        description="When it is due, with a time zone, between the years 2000 and 2200; default now. "
        "Not with `delay_seconds`.",
    )
    delay_seconds: float | None = Field(
        None,
        ge=0,
        le=MAX_DELAY_YEARS_SECONDS,
        strict=True,
        description="In how many seconds it is due, by the database's clock. Not with `run_at`.",
    )
    unique_key: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="At most one PENDING or RUNNING job has this key: a second request for the "
        "same job returns the existing one.",
    )
    backoff: BackoffIn | None = Field(
        None, description="Delays between attempts; default those of the handler."
    )
    batch_id: int | None = Field(
        None, ge=1, le=MAX_ID, description="The batch, an open one of your own, that it joins."
    )
    after: list[int] | None = Field(
        None,
        max_length=MAX_PARENTS,
        description="Ids of jobs that must have ended before this one starts, 10,000 at most: your own, or "
        "such as you may read.",
        examples=[[41, 42]],
    )
    on_parent_failure: OnParentFailure | None = Field(
        None,
        description="What becomes of it when a job in `after` does not succeed: `cancel` (the default), "
        "`run` all the same, or `hold` until that job is retried by hand and succeeds.",
    )
    concurrency_key: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="Jobs with the same key share a limit on how many of them run at once: that of "
        "the handler or of the queue. Default by the handler's rule.",
    )
    on_conflict: OnConflict = Field(
        "return",
        description="What to do where another live job has the `unique_key`. `return`: answer with that "
        "job. `reject`: 409. `replace`: that job, while it is PENDING, gets the payload, queue, priority, "
        "due time, retries and timeout of this one; 409 while it runs. `extend`: that job, while it is "
        "PENDING, becomes due when this one would, if that is later; 409 while it runs. `keep_latest`: as "
        "`replace` while that job waits; while it runs this one waits for its end.",
    )
    unique_scope: UniqueScope = Field(
        "live",
        description="How long the job has its `unique_key`: until it has ended (`live`), or "
        "`until_started`. Not with `keep_latest`.",
    )
    unique_for_seconds: float | None = Field(
        None,
        gt=0,
        le=MAX_HOLD_SECONDS,
        strict=True,
        description="For how long from now the key is held, even after the job has ended, against requests "
        "that give this as well. With `return` or `reject`.",
    )
    debounce_max_seconds: float | None = Field(
        None,
        gt=0,
        le=MAX_HOLD_SECONDS,
        strict=True,
        description="With `extend`: how long after its creation a job may be made due; default "
        f"{DEFAULT_DEBOUNCE_MAX_SECONDS:.0f}.",
    )
    unique_by: list[str] | None = Field(
        None,
        min_length=1,
        max_length=MAX_PARTS,
        description="What the `unique_key` is made of instead: `queue`, fields such as "
        "`payload.customer_id`, and always the type. A field that the payload lacks is a 422.",
    )

    encrypt: EncryptIn | None = Field(
        None,
        description="What of the payload is kept encrypted, besides what its handler says: `true`, all of it; "
        "else members, `card` or `customer.card`. Nobody is shown it; the handler gets it plain.",
        examples=[["card"]],
    )
    callback: CallbackIn | None = Field(
        None,
        description="Whom to tell of its end, whatever that is: an `http.request` job sends it there, "
        "retried as such jobs are.",
    )
    result_ttl_seconds: float | None = Field(
        None,
        gt=0,
        le=MAX_DELAY_YEARS_SECONDS,
        strict=True,
        description="How long after its end its result is kept; default as long as the job.",
    )

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        if self.run_at is not None and self.delay_seconds is not None:
            raise ValueError("run_at and delay_seconds are both given: give one")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The digest under an Idempotency-Key is of this: while a request gives nothing new, the version
        # before makes the same one.
        members: dict[str, Any] = serialize(self)
        given = self.model_fields_set
        return {name: value for name, value in members.items() if name not in _ADDED - given}

    def to_new_job(self) -> NewJob:
        """The same for the engine, with its queue and concurrency key decided.

        Raises:
            InvalidInput: the rule of its type can make no key of this payload, or reads what is encrypted.
        """
        queue = self.queue or _own_queue(self.job_type)
        unique_key, unique_by = self.unique_key, self.unique_by
        self._check_keys()
        if unique_by is not None and unique_key is None:
            unique_key, unique_by = key_by(
                unique_by, job_type=self.job_type, queue=queue, payload=self.payload
            ), None  # fmt: skip
        return NewJob(
            job_type=self.job_type,
            payload=self.payload,
            queue=queue,
            priority=self.priority,
            max_retries=self.max_retries,
            timeout_seconds=self.timeout_seconds,
            run_at=self.run_at,
            delay_seconds=self.delay_seconds,
            unique_key=unique_key,
            backoff=None if self.backoff is None else Backoff(**dict(self.backoff)),
            after=self.after or None,
            on_parent_failure=self.on_parent_failure,
            batch_id=self.batch_id,
            concurrency_key=self.concurrency_key or key_of(self.job_type, self.payload),
            on_conflict=self.on_conflict,
            unique_scope=self.unique_scope,
            unique_for_seconds=self.unique_for_seconds,
            debounce_max_seconds=self.debounce_max_seconds,
            unique_by=unique_by,
            encrypt=self.encrypt or None,
            callback=None if self.callback is None else self.callback.model_dump(exclude_none=True),
            result_ttl_seconds=self.result_ttl_seconds,
        )

    def sealing(self) -> Sealing | None:
        """What of the payload is encrypted; None: nothing.

        Raises:
            InvalidInput: `encrypt` names no members of a payload.
        """
        own = encrypted_of(self.job_type)
        return own if self.encrypt is None else both(sealing_of(self.encrypt), own)

    def _check_keys(self) -> None:
        """Refuse keys that would be made here of what is encrypted.

        Raises:
            InvalidInput: the option and the member are named.
        """
        if (sealing := self.sealing()) is not None:
            check_unread(sealing, self.unique_by or (), by="unique_by")
            check_readable(self.job_type, sealing, given=self.concurrency_key)


class BatchIn(BaseModel):
    """Jobs to be enqueued together: all, or none."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"jobs": [EXAMPLE_IN, {"job_type": "demo.slow"}]}]},
    )

    jobs: list[JobIn] = Field(
        min_length=1, max_length=10_000, description="At most `MAX_BATCH_JOBS` (1000) of them."
    )


class BatchOut(BaseModel):
    """What became of a batch."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": [42, 43], "created": 2}]})

    ids: list[JobId] = Field(
        description="Id of each job in the order given; that of the existing job if one holds the `unique_key`."
    )
    created: int = Field(description="How many of them are new.")


def _own_queue(job_type: str) -> str:
    return policies.get(job_type, DEFAULTS).queue or DEFAULT_QUEUE
