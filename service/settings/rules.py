"""Rules between settings: combinations that do not work, and what production requires."""

from collections.abc import Iterator
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from service.addresses import SmtpServer, is_loopback
from service.settings.auth import MIN_HS256_SECRET_BYTES, AuthSettings
from service.settings.database import DatabaseSettings
from service.settings.reminders import RemindersSettings
from service.settings.worker import WorkerSettings

MIN_DISTINCT_CHARACTERS: Final = 8
"""Of a secret in production. 32 random bytes in hex have 13 or more, except once in a million."""

CHANNELS: Final = (
    ("smtp_url", "email_from"),
    ("twilio_account_sid", "twilio_auth_token", "twilio_whatsapp_from"),
)
"""Settings that must be set together."""

Broken: TypeAlias = tuple[set[str], str]
"""The names of the settings that break a rule, and the message."""


def worker(settings: WorkerSettings) -> Iterator[Broken]:
    """Heartbeats must be frequent enough to keep a lease; polls need a valid range."""
    heartbeat, lease = settings.heartbeat_seconds, settings.lease_seconds
    if heartbeat * 3 > lease:
        yield (
            {"heartbeat_seconds", "lease_seconds"},
            (
                f"HEARTBEAT_SECONDS ({heartbeat:g}) must be at most a third of LEASE_SECONDS ({lease:g}), "
                "so that a lease survives two lost heartbeats"
            ),
        )
    if settings.poll_min_seconds > settings.poll_max_seconds:
        yield (
            {"poll_min_seconds", "poll_max_seconds"},
            "POLL_MIN_SECONDS must be at most POLL_MAX_SECONDS",
        )


def channels(settings: RemindersSettings) -> Iterator[Broken]:
    """A channel needs all of its settings or none."""
    for together in CHANNELS:
        missing = [name for name in together if getattr(settings, name) is None]
        if 0 < len(missing) < len(together):
            yield (
                set(together),
                (
                    f"{' and '.join(name.upper() for name in together)} belong together: "
                    f"set {' and '.join(name.upper() for name in missing)} as well"
                ),
            )


def database_in_production(settings: DatabaseSettings) -> Iterator[Broken]:
    """Production requires a database of its own."""
    if settings.database_url is None:
        yield (
            {"database_url"},
            (
                "ENVIRONMENT=production needs DATABASE_URL (the embedded PostgreSQL is for development "
                "only)"
            ),
        )


def auth_in_production(settings: AuthSettings) -> Iterator[Broken]:
    """Production requires signing keys that nobody can guess or replace in transit."""
    if settings.jwt_secret is None and settings.jwt_jwks_url is None:
        yield (
            {"jwt_secret", "jwt_jwks_url"},
            (
                f"ENVIRONMENT=production needs JWT_SECRET ({MIN_HS256_SECRET_BYTES} bytes or more) or "
                "JWT_JWKS_URL"
            ),
        )
    if settings.jwt_jwks_url and urlsplit(settings.jwt_jwks_url).scheme != "https":
        yield {"jwt_jwks_url"}, "JWT_JWKS_URL must be https in production"
    secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret else None
    if secret is not None and len(set(secret)) < MIN_DISTINCT_CHARACTERS:
        yield (
            {"jwt_secret"},
            (
                f"JWT_SECRET has fewer than {MIN_DISTINCT_CHARACTERS} different characters and "
                "can be guessed: make one with `openssl rand -hex 32`"
            ),
        )


def channels_in_production(settings: RemindersSettings) -> Iterator[Broken]:
    """Production sends no password and no message unencrypted."""
    if settings.smtp_url is not None:
        server = SmtpServer.from_url(settings.smtp_url.get_secret_value())
        if server.password is not None and server.scheme == "smtp" and not is_loopback(server.host):
            yield (
                {"smtp_url"},
                (
                    "SMTP_URL sends its password unencrypted: use smtp+starttls:// or smtp+ssl:// in "
                    "production"
                ),
            )
    twilio = urlsplit(settings.twilio_base_url)
    if twilio.scheme != "https" and not is_loopback(twilio.hostname or ""):
        yield {"twilio_base_url"}, "TWILIO_BASE_URL must be https in production"
