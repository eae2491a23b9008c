"""What holds for a job whose type and request say nothing else, and how large a job may be."""

from pydantic import BaseModel, Field


class JobsSettings(BaseModel):
    """Retries, timeouts and sizes of jobs."""

    default_max_retries: int = Field(
        3, ge=0, le=1000, description="Retries of a job whose type and request say nothing else."
    )
    default_timeout_seconds: float = Field(
        300.0,
        gt=0,
        le=86_400,
        description="Time-out of a handler whose type and job say nothing else.",
    )
    backoff_base_seconds: float = Field(
        30.0, gt=0, le=86_400, description="Delay before the first retry."
    )
    backoff_factor: float = Field(
        4.0,
        ge=1,
        le=100,
        description="What each further delay is multiplied by: 30 s, 2 min, 8 min.",
    )
    backoff_cap_seconds: float = Field(
        3600.0, gt=0, le=604_800, description="Longest delay between two attempts."
    )
    backoff_jitter: float = Field(
        0.1, ge=0, le=1, description="Delays vary by this share up and down; 0 turns it off."
    )
    check_payloads: bool = Field(
        True,
        description="Answer 422 to a job whose payload its handler's `payload_model` refuses, where this process knows the handler. Off, its worker decides, which may know a newer model than this process.",
    )
    max_payload_bytes: int = Field(
        262_144,
        ge=1024,
        le=16_777_216,
        description="Largest payload or result of a job, as PostgreSQL writes its JSON: with a space after each comma and colon, and 1e308 as 309 digits.",
    )
    max_error_entries: int = Field(
        20, ge=1, le=1000, description="Entries kept in a job's error history; the oldest go first."
    )
