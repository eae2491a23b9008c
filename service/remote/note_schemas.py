"""Bodies and answers of `/worker`: progress and log lines of jobs that go on."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from service.api.field_types import WHOLE, PlannedTime
from service.jobs.core.log_line import Level
from service.remote.schemas import LeaseIn, WorkerName

MAX_LOGGING: Final = 100
"""Jobs that one call logs lines of."""
MAX_LINES: Final = 100
"""Lines of one job in one call."""

_LEASE: Final[dict[str, Any]] = {"id": 42, "lease_token": 90071}
_LINE: Final[dict[str, Any]] = {"line": 1, "message": "sent", "fields": {"recipients": 3}}


def _shown(**members: Any) -> ConfigDict:
    example: Any = {"worker": "mailer-1:831", "jobs": [_LEASE | members]}
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [example]})


class ProgressedIn(LeaseIn):
    """How far a job is."""

    fraction: float = Field(ge=0, le=1, strict=True, description="0 to 1.")
    message: str = Field("", max_length=1000, description="A few words.")


class ProgressIn(BaseModel):
    """How far jobs are."""

    model_config = _shown(fraction=0.5, message="half")

    worker: WorkerName | None = None
    jobs: list[ProgressedIn] = Field(min_length=1, max_length=1000, description="1,000 at most.")


class LineIn(BaseModel):
    """A line about a job, for operators to see."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_LINE]})

    line: Annotated[int, Field(strict=True, ge=1, le=1_000_000), WHOLE] = Field(
        description="1 for the first line of the attempt, 2 for the next: a line that is sent again is kept once."
    )
    message: str = Field(description="4,000 characters are kept.")
    level: Level = Field("info", description="How much it matters.")
    fields: dict[str, Any] | None = Field(
        None, description="Values beside the message; long ones are cut."
    )
    at: PlannedTime | None = Field(
        None, description="When it was logged, by the worker's clock; default now."
    )


class LoggedIn(LeaseIn):
    """Lines of one job."""

    lines: list[LineIn] = Field(min_length=1, max_length=MAX_LINES, description="100 at most.")


class LogIn(BaseModel):
    """Lines of jobs."""

    model_config = _shown(lines=[_LINE])

    worker: WorkerName | None = None
    jobs: list[LoggedIn] = Field(min_length=1, max_length=MAX_LOGGING, description="100 at most.")


class NotedOut(BaseModel):
    """What became of it for one job."""

    id: int
    lease_token: int
    outcome: str = Field(
        description="`recorded`; or `lease_lost`: nothing was, since the job is not the worker's any more."
    )
    full: bool = Field(
        description="Whether the attempt has logged all that JOB_LOG_LINES and JOB_LOG_BYTES allow: more is not kept."
    )


class NotesOut(BaseModel):
    """What became of it, job by job."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"jobs": [_LEASE | {"outcome": "recorded", "full": False}]}]
        }
    )

    jobs: list[NotedOut] = Field(description="In the order given.")


class StopIn(BaseModel):
    """A worker that stops."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"worker": "mailer-1:831"}]}
    )

    worker: WorkerName


class StoppedOut(BaseModel):
    """What became of it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"known": True}]})

    known: bool = Field(description="False: no such worker of yours is known; nothing was changed.")
