"""Which tokens are accepted, and how much one caller may ask for."""

from typing import Final

from pydantic import BaseModel, Field, SecretStr, field_validator

MIN_HS256_SECRET_BYTES: Final = 32
"""RFC 7518 §3.2: a key of at least the size of the hash output."""


class AuthSettings(BaseModel):
    """Credentials and quotas."""

    jwt_secret: SecretStr | None = Field(
        None,
        description="HS256 secret of at least 32 bytes. In development one is made and kept in `DATA_DIR`.",
    )
    jwt_jwks_url: str | None = Field(
        None, description="URL of a JWKS with RS256, ES256 or EdDSA keys; replaces `JWT_SECRET`."
    )
    jwt_issuer: str | None = Field(None, description="Required `iss` of a token, where set.")
    jwt_audience: str | None = Field(None, description="Required `aud` of a token, where set.")
    jwt_leeway_seconds: float = Field(
        10.0, ge=0, le=300, description="Clock difference forgiven in `exp`, `nbf` and `iat`."
    )
    jwks_cache_seconds: float = Field(
        300.0, ge=1, le=86_400, description="How long a fetched JWKS is used without asking again."
    )
    jwks_cooldown_seconds: float = Field(
        10.0,
        ge=0,
        le=3600,
        description="Least time between two fetches of the JWKS, whatever the tokens say.",
    )
    failed_sign_ins_per_minute: int = Field(
        60,
        ge=0,
        le=100_000,
        description="Refused credentials from one address (IPv6: one /64) that are answered 401; those beyond are answered 429. A credential that holds is never refused for them. 0 turns it off.",
    )
    user_requests_per_minute: int = Field(
        300,
        ge=0,
        le=1_000_000,
        description="Requests of one caller with the role `user` in a minute, over all processes; those beyond are answered 429. 0 turns it off.",
    )
    caller_requests_per_minute: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="The same for every other caller: one `sub`, or one API key. 0 turns it off.",
    )
    caller_live_jobs: int = Field(
        0,
        ge=0,
        le=100_000_000,
        description="PENDING and RUNNING jobs that one caller may have enqueued over REST; more are answered 429. Several processes may let a few more through. The first start with it builds an index of the live jobs, for which each job enqueued over REST pays a little. 0 turns it off.",
    )
    caller_new_names_per_hour: int = Field(
        100,
        ge=0,
        le=1_000_000,
        description="Queues and job types that nobody has used in the last 30 days, and no worker serves, which one caller may use in an hour; more are answered 429. 0 turns it off.",
    )
    user_reminders_per_day: int = Field(
        100,
        ge=0,
        le=1_000_000,
        description="Reminders that a caller without `reminders:all` may create on a UTC day; more are answered 429. 0 turns it off.",
    )

    @field_validator("jwt_secret", mode="after")
    @classmethod
    def _long_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MIN_HS256_SECRET_BYTES:
            raise ValueError(
                f"is shorter than {MIN_HS256_SECRET_BYTES} bytes: "
                "make one with `openssl rand -hex 32`"
            )
        return value
