"""Settings of maintenance: the leader's interval, retention, partitions and keys."""

from pydantic import BaseModel, Field


class MaintenanceSettings(BaseModel):
    """The leader's interval, retention, partitions and keys."""

    maintenance_seconds: float = Field(
        5.0, gt=0, le=300, description="How often the leader runs its maintenance duties."
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
    partition_days_ahead: int = Field(
        7, ge=1, le=60, description="Day partitions created ahead of time."
    )
    count_cap: int = Field(
        10_000, ge=100, le=1_000_000, description="Rows that a live count reads at most."
    )
    share_unique_keys: bool = Field(
        False,
        description="Return the live job of another caller that has the same `unique_key`. If false, the answer is a 409 that reveals nothing about that job. Jobs enqueued from SQL or Python are returned in either case.",
    )
    idempotency_key_hours: int = Field(
        24, ge=1, le=720, description="Hours that an `Idempotency-Key` is remembered."
    )
