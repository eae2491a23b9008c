"""Settings of jobs: retries, timeouts, backoff and sizes."""

from pydantic import BaseModel, Field, SecretStr


class JobsSettings(BaseModel):
    """Retries, timeouts, backoff and sizes."""

    default_max_retries: int = Field(
        3,
        ge=0,
        le=1000,
        description="Retries of a job, unless its type or its request sets another number.",
    )
    default_timeout_seconds: float = Field(
        300.0,
        gt=0,
        le=86_400,
        description="Timeout of a handler, unless its type or the job sets another one.",
    )
    backoff_base_seconds: float = Field(
        30.0, gt=0, le=86_400, description="Delay before the first retry."
    )
    backoff_factor: float = Field(
        4.0,
        ge=1,
        le=100,
        description="Factor by which each further delay grows: 30 s, 2 min, 8 min.",
    )
    backoff_cap_seconds: float = Field(
        3600.0, gt=0, le=604_800, description="Longest delay between two attempts."
    )
    backoff_jitter: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share by which a delay varies randomly in both directions; 0 turns it off.",
    )
    check_payloads: bool = Field(
        True,
        description="Answer 422 to a job whose payload does not match its handler's `payload_model`, if this process has the handler. If false, the worker checks the payload when it runs the job; it may have a newer model.",
    )
    max_payload_bytes: int = Field(
        262_144,
        ge=1024,
        le=16_777_216,
        description="Largest payload or result of a job, measured as the JSON that PostgreSQL writes: a space after each comma and colon, and 1e308 as 309 digits.",
    )
    payload_keys: SecretStr | None = Field(
        None,
        description="Keys that payloads are encrypted with (docs/encryption.md), comma-separated, each 32 bytes in base64 (`openssl rand -base64 32`). The first encrypts, all decrypt. The same in every process that enqueues or runs such jobs.",
    )
    job_log_lines: int = Field(
        1000,
        ge=0,
        le=100_000,
        description="Lines that `ctx.log` keeps of one attempt; 0 keeps none. A job keeps those of the newest three attempts that logged.",
    )
    job_log_bytes: int = Field(
        262_144,
        ge=4096,
        le=16_777_216,
        description="Bytes that `ctx.log` keeps of one attempt.",
    )
    job_steps: int = Field(1000, ge=1, le=100_000, description="Steps of one job (`ctx.step`).")
    job_step_bytes: int = Field(
        1_048_576,
        ge=4096,
        le=67_108_864,
        description="Bytes of the results of all steps of one job, which each of its attempts that has steps reads; `MAX_PAYLOAD_BYTES` limits each of them.",
    )
    job_log_capture: bool = Field(
        False,
        description="Keep what handlers log by `logging` with their jobs, as if by `ctx.log`, unless a type sets `capture_logging`.",
    )
    job_events: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Events that one job keeps (`POST /jobs/{id}/events/{name}`).",
    )
    job_event_bytes: int = Field(
        16_384, ge=256, le=1_048_576, description="Bytes of the data of one event."
    )
    max_error_entries: int = Field(
        20,
        ge=1,
        le=1000,
        description="Entries kept in a job's error history; the oldest are dropped first.",
    )
