"""Settings of maintenance: the leader's interval, retention, partitions and keys."""

from pydantic import BaseModel, Field


class MaintenanceSettings(BaseModel):
    """The leader's interval, retention, partitions and keys."""

    maintenance_seconds: float = Field(
        5.0,
        gt=0,
        le=300,
        description="How often the leader runs its maintenance duties; while no job is live, one time in six.",
    )
    retention_days: int = Field(
        7,
        ge=1,
        le=3650,
        description="Days that finished jobs are kept. Jobs are dropped by whole days.",
    )
    dead_retention_days: int = Field(
        90, ge=1, le=3650, description="Days that DEAD_LETTER and FAILED jobs are kept."
    )
    audit_retention_days: int = Field(
        400,
        ge=30,
        le=3650,
        description="Days that entries of the audit log are kept. They are dropped by whole months.",
    )
    job_log_days: int = Field(7, ge=1, le=365, description="Days that lines of `ctx.log` are kept.")
    dependency_retention_days: int = Field(
        7,
        ge=1,
        le=3650,
        description="Days that it is kept which jobs a job waited for, at least. It is kept longer while the job is live or can be retried.",
    )
    batch_retention_days: int = Field(
        30,
        ge=1,
        le=3650,
        description="Days that a batch is kept once it is complete; one that is never completed, since it was made, or longer while it has live jobs.",
    )
    operation_retention_days: int = Field(
        90,
        ge=1,
        le=3650,
        description="Days that finished operations on many jobs are kept, with what they skipped.",
    )
    partition_days_ahead: int = Field(
        7, ge=1, le=60, description="Day partitions created ahead of time."
    )
    count_cap: int = Field(
        10_000, ge=100, le=1_000_000, description="Rows that a live count reads at most."
    )
    minute_counts_hours: int = Field(
        48, ge=2, le=720, description="Hours that counts by minute of what ended are kept."
    )
    hour_counts_days: int = Field(
        30, ge=8, le=400, description="Days that counts by hour of what ended are kept."
    )
    day_counts_days: int = Field(
        400, ge=8, le=3650, description="Days that counts by day of what ended are kept."
    )
    counted_pairs: int = Field(
        1000,
        ge=1,
        le=10_000,
        description="Pairs of queue and job type whose counts by minute, hour and day are kept by name, on one day; those of further pairs are summed.",
    )
    share_unique_keys: bool = Field(
        False,
        description="Return the live job of another caller that has the same `unique_key`. If false, the answer is a 409 that reveals nothing about that job. Jobs enqueued from SQL or Python are returned in either case.",
    )
    idempotency_key_hours: int = Field(
        24, ge=1, le=720, description="Hours that an `Idempotency-Key` is remembered."
    )
