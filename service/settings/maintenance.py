"""How often the leader does its duties, and how long the service keeps what is finished."""

from pydantic import BaseModel, Field


class MaintenanceSettings(BaseModel):
    """Retention and upkeep."""

    maintenance_seconds: float = Field(
        5.0, gt=0, le=300, description="How often the leader does its duties."
    )
    retention_days: int = Field(
        7, ge=1, le=3650, description="Days that finished jobs are kept; whole days are dropped."
    )
    dead_retention_days: int = Field(
        90, ge=1, le=3650, description="Days that DEAD_LETTER and FAILED jobs are kept."
    )
    partition_days_ahead: int = Field(
        7, ge=1, le=60, description="Day partitions made ahead of time."
    )
    count_cap: int = Field(
        10_000, ge=100, le=1_000_000, description="Rows that a live count looks at, at the most."
    )
    share_unique_keys: bool = Field(
        False,
        description="Let a `unique_key` find the live job of another caller; else that is a 409 which tells nothing of the job. Jobs enqueued by SQL or Python are everybody's either way.",
    )
    idempotency_key_hours: int = Field(
        24, ge=1, le=720, description="How long an `Idempotency-Key` is remembered."
    )
