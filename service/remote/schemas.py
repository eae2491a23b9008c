"""Bodies and answers of `/worker`: registration, claims and heartbeats."""

from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.api.field_types import WHOLE, Name, Retries
from service.api.new_job_schemas import BackoffIn
from service.api.patterns import VISIBLE_ASCII
from service.jobs.core.claimed_job import Lease
from service.jobs.core.job import MAX_ID, JobId, LeaseToken
from service.remote.model import Handed

MAX_JOBS: Final = 100
"""Jobs that one claim brings."""
MAX_LEASES: Final = 1000
"""Leases that one heartbeat, or one report, names."""
MAX_NAMES: Final = 100
"""Types, and queues, that one claim names."""

_Names = Annotated[list[Name], Field(min_length=1, max_length=MAX_NAMES)]
WorkerName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=VISIBLE_ASCII,
        description="What the worker calls itself, the same for as long as it runs: host and process id.",
        examples=["mailer-1:831"],
    ),
]
Token = Annotated[
    int,
    Field(strict=True, ge=1, le=MAX_ID, description="The `lease_token` of its claim."),
    WHOLE,
]
Id = Annotated[
    int, Field(strict=True, ge=1, le=MAX_ID, description="Id of a job.", examples=[42]), WHOLE
]

EXAMPLE_JOB: Final[dict[str, Any]] = {
    "id": 42,
    "lease_token": 90071,
    "lease_seconds": 29.98,
    "timeout_seconds": 300.0,
    "job_type": "send_invoice",
    "queue": "billing",
    "priority": 5,
    "attempt": 1,
    "max_attempts": 4,
    "payload": {"invoice": 7},
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TypePolicyIn(_Body):
    """What holds for jobs of one type that say nothing else."""

    timeout_seconds: float | None = Field(
        None, gt=0, le=86_400, strict=True, description="Limit on one attempt."
    )
    max_retries: Retries | None = Field(None, description="Retries after the first attempt.")
    backoff: BackoffIn | None = Field(None, description="Delays between attempts.")


class RegisterIn(_Body):
    """A worker that begins."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "worker": "mailer-1:831",
                    "job_types": ["send_invoice"],
                    "concurrency": 10,
                    "version": "1.4.0",
                    "policies": {"send_invoice": {"timeout_seconds": 60, "max_retries": 5}},
                }
            ]
        },
    )

    worker: WorkerName
    job_types: _Names = Field(description="The types that it serves, 100 at most.")
    queues: _Names | None = Field(
        None, description="The queues that it serves; without, all that its key may use."
    )
    concurrency: Annotated[int, Field(strict=True, ge=1, le=10_000), WHOLE] = Field(
        1, description="Jobs that it runs at once, for operators to see."
    )
    version: str | None = Field(
        None,
        max_length=100,
        pattern=VISIBLE_ASCII,
        description="Its own version, for people to read.",
    )
    policies: dict[Name, TypePolicyIn] = Field(
        default_factory=dict,
        max_length=MAX_NAMES,
        description="By type, what holds for jobs that say nothing else; what a type does not say is as the "
        "service has it.",
    )

    @model_validator(mode="after")
    def _policies_of_its_types(self) -> Self:
        unknown = sorted(self.policies.keys() - set(self.job_types))
        if unknown:
            raise ValueError(
                f"policies names {unknown[0]!r}, which job_types does not: give policies of its types alone"
            )
        return self


class RegisteredOut(BaseModel):
    """What a worker has to keep to."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "worker_id": 7,
                    "lease_seconds": 30.0,
                    "heartbeat_seconds": 10.0,
                    "max_wait_seconds": 30.0,
                    "drain": False,
                }
            ]
        }
    )

    worker_id: int = Field(description="Its number in `GET /admin/workers`.")
    lease_seconds: float = Field(description="How long a job is its own without a heartbeat.")
    heartbeat_seconds: float = Field(description="How often to send heartbeats.")
    max_wait_seconds: float = Field(description="The longest that a claim waits.")
    drain: bool = Field(description="Whether it is to claim no more, end its jobs, and stop.")


class ClaimIn(_Body):
    """Which jobs a worker asks for."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "worker": "mailer-1:831",
                    "job_types": ["send_invoice"],
                    "limit": 10,
                    "wait_seconds": 20,
                    "request_id": "831-17",
                }
            ]
        },
    )

    worker: WorkerName
    job_types: _Names = Field(description="The types that it runs, 100 at most.")
    queues: _Names | None = Field(
        None, description="The queues that it serves; without, all that its key may use."
    )
    limit: Annotated[int, Field(strict=True, ge=1, le=MAX_JOBS), WHOLE] = Field(
        1, description="How many jobs it has room for, 100 at most."
    )
    wait_seconds: float = Field(
        0.0,
        ge=0,
        le=300,
        strict=True,
        description="How long to wait for a job where none is due; `REMOTE_CLAIM_WAIT_SECONDS` (30) at most.",
    )
    request_id: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        pattern=VISIBLE_ASCII,
        description="Names this claim. Sent again, since its answer was lost, it brings the same jobs, as "
        "far as their leases hold.",
    )


class ClaimedJobOut(BaseModel):
    """A job that is the worker's own until its lease ends."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_JOB]})

    id: int
    lease_token: int = Field(
        description="Names this claim of the job in heartbeats and reports; it grows with every claim of any "
        "job: a fencing token for other systems."
    )
    lease_seconds: float = Field(description="How long it is the worker's own without a heartbeat.")
    timeout_seconds: float = Field(
        description="How long the attempt may take; after that the service ends it."
    )
    job_type: str
    queue: str
    priority: int
    attempt: int = Field(description="1 for the first.")
    max_attempts: int = Field(description="A failure of the attempt with this number ends the job.")
    payload: Any = Field(description="As it was enqueued.")


class ClaimOut(BaseModel):
    """The jobs that a claim brought."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"jobs": [EXAMPLE_JOB], "drain": False}]}
    )

    jobs: list[ClaimedJobOut] = Field(description="None: nothing was due in all the time.")
    drain: bool = Field(
        description="Whether the worker is to claim no more, end its jobs, and stop."
    )


class LeaseIn(_Body):
    """One claim of one job."""

    id: Id
    lease_token: Token

    @property
    def lease(self) -> Lease:
        """What names the claim."""
        return JobId(self.id), LeaseToken(self.lease_token)


class HeartbeatIn(_Body):
    """The jobs that a worker still has."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"worker": "mailer-1:831", "jobs": [{"id": 42, "lease_token": 90071}]}]
        },
    )

    worker: WorkerName
    jobs: list[LeaseIn] = Field(
        default_factory=list,
        max_length=MAX_LEASES,
        description="1,000 at most; none: it just lives.",
    )
    wait_seconds: float = Field(
        0.0,
        ge=0,
        le=300,
        strict=True,
        description="How long to wait for the cancel of one of the jobs; `heartbeat_seconds` at most. The answer "
        "comes at once where something else than `held` is to be told.",
    )


class BeatOut(BaseModel):
    """What a heartbeat found of one job."""

    id: int
    lease_token: int
    state: str = Field(
        description="`held`: its lease goes on. `cancel`: it does, and somebody asked for the job's cancel: "
        "stop, and report whatever came of it. Of the others nothing can be reported any more, stop at once: "
        "`lease_lost`: another worker may have the job; `timed_out`: the attempt took too long and has "
        "failed; `cancelled`: it did not stop in time when asked to."
    )
    lease_seconds: float = Field(
        description="How long the lease lasts from now; 0 where it is over."
    )
    timeout_in_seconds: float | None = Field(
        description="When the service ends the attempt; null where it is over."
    )


class HeartbeatOut(BaseModel):
    """What a heartbeat found."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "jobs": [
                        {
                            "id": 42,
                            "lease_token": 90071,
                            "state": "held",
                            "lease_seconds": 30.0,
                            "timeout_in_seconds": 270.4,
                        }
                    ],
                    "drain": False,
                }
            ]
        }
    )

    jobs: list[BeatOut] = Field(description="In the order given.")
    drain: bool = Field(
        description="Whether the worker is to claim no more, end its jobs, and stop."
    )


def head_of(handed: Handed) -> dict[str, Any]:
    """A `ClaimedJobOut` without its payload."""
    job = handed.job
    return {
        "id": job.id,
        "lease_token": job.lease_token,
        "lease_seconds": round(handed.lease_seconds, 3),
        "timeout_seconds": handed.timeout_seconds,
        "job_type": job.job_type,
        "queue": job.queue,
        "priority": job.priority,
        "attempt": job.attempt,
        "max_attempts": handed.max_attempts,
    }
