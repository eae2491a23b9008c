"""Settings of authentication and of the quotas of callers."""

from typing import Final

from pydantic import BaseModel, Field, SecretStr, field_validator

MIN_HS256_SECRET_BYTES: Final = 32
"""RFC 7518 §3.2: a key of at least the size of the hash output."""


class AuthSettings(BaseModel):
    """Tokens and quotas."""

    jwt_secret: SecretStr | None = Field(
        None,
        description="HS256 secret of at least 32 bytes. If unset in development, the service creates one and keeps it in `DATA_DIR`.",
    )
    jwt_jwks_url: str | None = Field(
        None, description="URL of a JWKS with RS256, ES256 or EdDSA keys. Replaces `JWT_SECRET`."
    )
    jwt_issuer: str | None = Field(None, description="Required `iss` of a token, if set.")
    jwt_audience: str | None = Field(None, description="Required `aud` of a token, if set.")
    jwt_leeway_seconds: float = Field(
        10.0, ge=0, le=300, description="Clock difference tolerated in `exp`, `nbf` and `iat`."
    )
    jwks_cache_seconds: float = Field(
        300.0,
        ge=1,
        le=86_400,
        description="How long a fetched JWKS is used before it is fetched again.",
    )
    jwks_cooldown_seconds: float = Field(
        10.0,
        ge=0,
        le=3600,
        description="Shortest time between two fetches of the JWKS, even for tokens with an unknown key.",
    )
    failed_sign_ins_per_minute: int = Field(
        60,
        ge=0,
        le=100_000,
        description="Refused credentials per address (IPv6: per /64) that are answered 401; further ones are answered 429. Valid credentials are not affected. 0 turns the limit off.",
    )
    user_requests_per_minute: int = Field(
        300,
        ge=0,
        le=1_000_000,
        description="Requests per minute of one caller with the role `user`, over all processes; further ones are answered 429. 0 turns the limit off.",
    )
    caller_requests_per_minute: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="The same for any other caller, which is one `sub` or one API key. 0 turns the limit off.",
    )
    caller_live_jobs: int = Field(
        0,
        ge=0,
        le=100_000_000,
        description="PENDING and RUNNING jobs of one caller that were enqueued over REST; further ones are answered 429. With several processes a few more may pass. The first start with a limit builds an index of the live jobs, which makes each enqueue over REST slightly slower. 0 turns the limit off.",
    )
    caller_new_names_per_hour: int = Field(
        100,
        ge=0,
        le=1_000_000,
        description="New queues and job types that one caller may use per hour; further ones are answered 429. New means that nobody used the name in the last 30 days and no worker serves it. 0 turns the limit off.",
    )
    user_reminders_per_day: int = Field(
        100,
        ge=0,
        le=1_000_000,
        description="Reminders that a caller without the scope `reminders:all` may create per UTC day; further ones are answered 429. 0 turns the limit off.",
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
