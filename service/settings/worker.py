"""What a worker serves, how many jobs it runs at once, and how it claims, holds and settles them."""

from pydantic import BaseModel, Field, field_validator

from service.settings.comma_separated import CommaSeparated


class WorkerSettings(BaseModel):
    """One worker process."""

    handler_modules: CommaSeparated = Field(
        (),
        description="Python modules that register handlers, comma-separated: `billing.jobs,crm.jobs`. Installed entry points of the group `finmind_jobs.handlers` are loaded as well.",
    )
    demo_handlers: bool = Field(
        False, description="Register the `demo.*` handlers (always on in development)."
    )
    worker_queues: CommaSeparated = Field(
        ("*",),
        description="Queues that this worker serves, comma-separated; `*` for all; `emails:5` runs at most 5 jobs of `emails` at once in this process, and `*,emails:5` all the others as well.",
    )
    worker_concurrency: int = Field(
        100, ge=1, le=10_000, description="Jobs that one process runs at once."
    )
    sync_handler_threads: int = Field(
        16, ge=1, le=500, description="Threads for handlers that are plain functions."
    )
    claim_batch_size: int = Field(
        200, ge=1, le=1000, description="Jobs that one claim takes at most."
    )
    settle_batch_size: int = Field(
        200,
        ge=1,
        le=1000,
        description="So many outcomes are recorded without a wait for more; what gathers meanwhile "
        "goes out together, three times as many in one statement at most.",
    )
    settle_delay_seconds: float = Field(
        0.002, ge=0, le=0.1, description="How long a settle waits for others to join its batch."
    )
    poll_min_seconds: float = Field(
        0.05, gt=0, le=10, description="First pause of an idle worker between looks at the table."
    )
    poll_max_seconds: float = Field(
        1.0, gt=0, le=60, description="Longest pause of an idle worker between looks at the table."
    )
    sweep_seconds: float = Field(
        5.0,
        gt=0,
        le=60,
        description="How often a busy worker claims from the very start of each queue and priority: late commits and expired leases are found there.",
    )
    lease_seconds: float = Field(
        30.0, ge=1, le=3600, description="How long a claim holds without a heartbeat."
    )
    heartbeat_seconds: float = Field(
        10.0,
        ge=0.1,
        le=1200,
        description="How often leases are extended; at most a third of the lease.",
    )
    max_lost_leases: int = Field(
        5,
        ge=1,
        le=100,
        description="A job that lost this many leases in a row is dead-lettered as poison. From the second on it comes back after a random delay, apart from those that were lost with it.",
    )
    shutdown_grace_seconds: float = Field(
        25.0,
        ge=0,
        le=3600,
        description="How long requests and running handlers may go on after SIGTERM, both from the signal on; then requests are cut, handlers cancelled and their jobs given back. The process ends within about 3 s more.",
    )
    unknown_type_grace_seconds: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="How long a due job waits for some worker to serve its type before it becomes FAILED, unless a worker served it within SERVED_TYPE_MEMORY_DAYS.",
    )
    served_type_memory_days: int = Field(
        7,
        ge=0,
        le=365,
        description="How long jobs of a type that a worker has served wait for one to come back, while none does; 0: no longer than those of a type that nobody ever served.",
    )

    @field_validator("worker_queues", mode="after")
    @classmethod
    def _queue_limits(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            name, _, limit = entry.partition(":")
            if not name or (limit and not (limit.isdigit() and int(limit) > 0)):
                raise ValueError(f"{entry!r} is not `queue` or `queue:limit` with a limit above 0")
            if name == "*" and limit:
                raise ValueError(f"{entry!r}: WORKER_CONCURRENCY bounds all queues together")
        return value

    @field_validator("handler_modules", mode="after")
    @classmethod
    def _module_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"{name!r} is no module: expected names such as billing.jobs")
        return value
