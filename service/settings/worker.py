"""Settings of a worker: what it serves, its concurrency, batches, polling, leases and shutdown."""

from re import fullmatch

from pydantic import BaseModel, Field, field_validator

from service.settings.comma_separated import CommaSeparated


class WorkerSettings(BaseModel):
    """Handlers, queues, concurrency, batches, polling, leases and shutdown."""

    handler_modules: CommaSeparated = Field(
        (),
        description="Python modules that register handlers, comma-separated: `billing.jobs,crm.jobs`. Entry points of the group `finmind_jobs.handlers` are loaded as well.",
    )
    demo_handlers: bool = Field(
        False, description="Register the `demo.*` handlers (always on in development)."
    )
    worker_queues: CommaSeparated = Field(
        ("*",),
        description="Queues that this worker serves, comma-separated; `*` means all. `emails:5` runs at most 5 jobs of `emails` at once in this process; `*,emails:5` does so and serves all other queues without a limit of their own. Limits over all processes are set at run time: docs/queues.md.",
    )
    worker_concurrency: int = Field(
        100, ge=1, le=10_000, description="Jobs that one process runs at the same time."
    )
    sync_handler_threads: int = Field(
        16, ge=1, le=500, description="Threads for handlers that are plain (not async) functions."
    )
    handler_processes: int | None = Field(
        None,
        ge=1,
        le=500,
        description='Processes for handlers with `executor="process"`, each with about 80 MB and what its handlers load. They are started when such a handler first runs. If unset, as many as the cores that the worker may use.',
    )
    handler_process_jobs: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Jobs that run in one such process before a new one takes its place, which gives back what handlers leak.",
    )
    claim_batch_size: int = Field(
        200, ge=1, le=1000, description="Largest number of jobs in one claim."
    )
    settle_batch_size: int = Field(
        200,
        ge=1,
        le=1000,
        description="Outcomes that are recorded together without waiting for more. Under load one statement records up to three times as many.",
    )
    settle_delay_seconds: float = Field(
        0.002,
        ge=0,
        le=0.1,
        description="How long an outcome waits for others to share its statement.",
    )
    poll_min_seconds: float = Field(
        0.05, gt=0, le=10, description="Shortest pause between polls of an idle worker."
    )
    poll_max_seconds: float = Field(
        1.0, gt=0, le=60, description="Longest pause between polls of an idle worker."
    )
    sweep_seconds: float = Field(
        5.0,
        gt=0,
        le=60,
        description="How often a busy worker claims from the start of each queue and priority, where it finds jobs that were committed late and jobs whose lease expired.",
    )
    priority_ageing_seconds: float = Field(
        300.0,
        ge=0,
        le=86_400,
        description="How long a due job may wait behind more urgent jobs of its queue. One claim in ten then begins with such jobs, until there are none. 0 lets jobs of lower priorities wait for as long as more urgent ones are due.",
    )
    lease_seconds: float = Field(
        30.0,
        ge=1,
        le=3600,
        description="How long a worker holds a job without a heartbeat before other workers may claim it.",
    )
    heartbeat_seconds: float = Field(
        10.0,
        ge=0.1,
        le=1200,
        description="How often a worker extends its leases; at most a third of `LEASE_SECONDS`.",
    )
    max_lost_leases: int = Field(
        5,
        ge=1,
        le=100,
        description="A job that loses this many leases in a row becomes DEAD_LETTER as poison. From the second lost lease on it is retried after a random delay, so that it runs apart from the jobs it was lost with.",
    )
    shutdown_grace_seconds: float = Field(
        25.0,
        ge=0,
        le=3600,
        description="How long after SIGTERM requests and running handlers may continue. Then requests are cut, handlers are cancelled and their jobs return to PENDING. The process exits about 3 s later at the latest.",
    )
    cancel_grace_seconds: float = Field(
        10.0,
        ge=0,
        le=3600,
        description="How long a handler may take to stop once somebody asked for its job's cancel. Then the job is CANCELLED without waiting for it, and the handler keeps its slot until it ends.",
    )
    remote_claims_waiting: int = Field(
        5000,
        ge=1,
        le=100_000,
        description="Claims of workers over HTTP that may wait for jobs in one process; further ones are answered 503. As many heartbeats may wait; further ones are answered at once.",
    )
    remote_claim_wait_seconds: float = Field(
        30.0,
        ge=0,
        le=300,
        description="Longest time that a claim of a worker over HTTP waits for jobs; one that asks for longer is answered after this time. Keep it shorter than the timeouts of proxies in between.",
    )
    unknown_type_grace_seconds: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="How long a due job waits for a worker that serves its type before it becomes FAILED. Types that a worker served within `SERVED_TYPE_MEMORY_DAYS` wait longer.",
    )
    served_type_memory_days: int = Field(
        7,
        ge=0,
        le=365,
        description="How long jobs of a type wait after the last worker that served it has gone. 0 treats such a type like one that no worker ever served.",
    )

    @field_validator("worker_queues", mode="after")
    @classmethod
    def _queue_limits(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("it names no queue: a worker would run nothing. `*` is every queue")
        for entry in value:
            name, _, limit = entry.partition(":")
            if not name or (limit and not fullmatch("0*[1-9][0-9]{0,8}", limit)):
                raise ValueError(
                    f"{entry[:100]!r} is not `queue` or `queue:limit` with a limit above 0"
                )
            if name == "*" and limit:
                raise ValueError(
                    f"{entry!r}: `*` takes no limit; WORKER_CONCURRENCY limits all queues together"
                )
        return value

    @field_validator("handler_modules", mode="after")
    @classmethod
    def _module_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(
                    f"{name!r} is not a module name: expected names such as billing.jobs"
                )
        return value
