"""What is sent and what comes back."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Final, Literal, Self, TypedDict

OnConflict = Literal["return", "reject", "replace", "extend", "keep_latest"]
OnParentFailure = Literal["cancel", "run", "hold"]
UniqueScope = Literal["live", "until_started"]
Status = Literal["PENDING", "RUNNING", "SUCCESS", "FAILED", "DEAD_LETTER", "CANCELLED"]

ENDED: Final = frozenset({"SUCCESS", "FAILED", "DEAD_LETTER", "CANCELLED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Delays between the attempts of a job: `base_seconds · factor^(retry-1)`, up to `cap_seconds`."""

    base_seconds: float = 30.0
    factor: float = 4.0
    cap_seconds: float = 3600.0
    jitter: float = 0.1
    """The share by which delays vary up and down."""


class SqlOptions(TypedDict, total=False):
    """The options of a job that is enqueued in a transaction: members of `NewJob`, by name."""

    queue: str | None
    priority: int | None
    max_retries: int | None
    timeout_seconds: float | None
    run_at: datetime | None
    delay_seconds: float | None
    backoff: Backoff | None
    unique_key: str | None
    unique_by: Sequence[str] | None
    unique_scope: UniqueScope | None
    unique_for_seconds: float | None
    on_conflict: OnConflict | None
    debounce_max_seconds: float | None
    concurrency_key: str | None
    after: Sequence[int] | None
    on_parent_failure: OnParentFailure | None
    batch_id: int | None
    callback: Mapping[str, str] | None
    result_ttl_seconds: float | None


class JobOptions(SqlOptions, total=False):
    """The options of a job that is enqueued over REST."""

    encrypt: Sequence[str] | Literal[True] | None


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be enqueued. What is None is left to the service; see its OpenAPI document for the rules."""

    job_type: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    _: KW_ONLY
    queue: str | None = None
    priority: int | None = None
    max_retries: int | None = None
    timeout_seconds: float | None = None
    run_at: datetime | None = None
    delay_seconds: float | None = None
    backoff: Backoff | None = None
    unique_key: str | None = None
    unique_by: Sequence[str] | None = None
    unique_scope: UniqueScope | None = None
    unique_for_seconds: float | None = None
    on_conflict: OnConflict | None = None
    debounce_max_seconds: float | None = None
    concurrency_key: str | None = None
    after: Sequence[int] | None = None
    on_parent_failure: OnParentFailure | None = None
    batch_id: int | None = None
    encrypt: Sequence[str] | Literal[True] | None = None
    """Members of the payload that are stored encrypted; True: all of it."""
    callback: Mapping[str, str] | None = None
    """Where its end is told: `{"url": …, "sign_with": …}`."""
    result_ttl_seconds: float | None = None

    def body(self) -> dict[str, Any]:
        """The members of the request: those that are given."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        members = {name: value for name, value in given.items() if value is not None}
        if self.run_at is not None:
            if getattr(self.run_at, "tzinfo", None) is None:  # a string of who checks no types, too
                raise ValueError(
                    f"run_at is {self.run_at!r}: expected a datetime with a time zone, as datetime.now(UTC) has one"
                )
            members["run_at"] = self.run_at.isoformat()
        if self.backoff is not None:
            members["backoff"] = asdict(self.backoff)
        return members


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the service shows it."""

    id: int
    job_type: str
    queue: str
    status: Status
    priority: int
    attempts: int
    payload: Any
    result: Any
    """What its handler returned; None before that, and for callers that may not read it."""
    progress: Any
    last_error: str | None
    unique_key: str | None
    next_run_at: datetime
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    is_new: bool | None = None
    """Whether the call that gave it made it; None where it made none."""
    etag: str | None = None
    """Its version, for `change(..., if_match=job.etag)`."""
    document: Mapping[str, Any] = field(repr=False, compare=False)
    """All members of the answer: also those that this version of the client does not know."""

    @property
    def ended(self) -> bool:
        """Whether it has come to its end."""
        return self.status in ENDED

    @classmethod
    def of(
        cls, document: Mapping[str, Any], *, is_new: bool | None = None, etag: str | None = None
    ) -> Self:
        """Read one from an answer."""
        times = {
            name: _time(document.get(name)) for name in ("created_at", "started_at", "finished_at")
        }
        names = (
            "id", "job_type", "queue", "status", "priority", "attempts", "payload", "result", "progress",
            "last_error", "unique_key",
        )  # fmt: skip
        members: dict[str, Any] = {name: document.get(name) for name in names} | times
        members["next_run_at"] = _time(document["next_run_at"])
        return cls(**members, is_new=is_new, etag=etag, document=document)


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What became of jobs that were enqueued together."""

    ids: Sequence[int]
    """One for each, in the order given: that of the job that holds its `unique_key`, where one does."""
    created: int
    """How many of them are new."""


@dataclass(frozen=True, slots=True)
class JobRef:
    """A job that was enqueued in a transaction: it can be read once that has committed."""

    id: int
    is_new: bool
    """False: it is the one that has the `unique_key` already."""


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some of the jobs that match, newest first."""

    jobs: Sequence[Job]
    next_cursor: str | None
    """Where the next page begins; None: this is the last."""


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
