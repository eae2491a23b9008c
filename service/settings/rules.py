"""What must hold between settings that are each right, and what production asks for besides."""

from collections.abc import Iterator
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from service.addresses import SmtpServer, is_loopback
from service.settings.auth import MIN_HS256_SECRET_BYTES, AuthSettings
from service.settings.database import DatabaseSettings
from service.settings.reminders import RemindersSettings
from service.settings.worker import WorkerSettings

MIN_DISTINCT_CHARACTERS: Final = 8
"""Of a secret in production: 32 random bytes in hex have 13 or more, save once in a million."""

CHANNELS: Final = (
    ("smtp_url", "email_from"),
    ("twilio_account_sid", "twilio_auth_token", "twilio_whatsapp_from"),
)
"""Settings that mean something only together."""

Broken: TypeAlias = tuple[set[str], str]
"""The names of the settings that do not fit together, and why in words."""


def worker(settings: WorkerSettings) -> Iterator[Broken]:
    """Heartbeats and polls have times that fit."""
    heartbeat, lease = settings.heartbeat_seconds, settings.lease_seconds
    if heartbeat * 3 > lease:
        yield (
            {"heartbeat_seconds", "lease_seconds"},
            (
                f"HEARTBEAT_SECONDS ({heartbeat:g}) must be at most a third of LEASE_SECONDS ({lease:g}), "
                "so that two lost heartbeats cost no lease"
            ),
        )
    if settings.poll_min_seconds > settings.poll_max_seconds:
        yield (
            {"poll_min_seconds", "poll_max_seconds"},
            "POLL_MIN_SECONDS must not be above POLL_MAX_SECONDS",
        )


def channels(settings: RemindersSettings) -> Iterator[Broken]:
    """A channel is set as a whole or not at all."""
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
    """The database is one that somebody looks after."""
    if settings.database_url is None:
        yield (
            {"database_url"},
            (
                "ENVIRONMENT=production needs DATABASE_URL (the embedded PostgreSQL is for development "
                "only)"
            ),
        )


def auth_in_production(settings: AuthSettings) -> Iterator[Broken]:
    """Tokens are signed with keys that nobody guesses or replaces."""
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
                f"JWT_SECRET has fewer than {MIN_DISTINCT_CHARACTERS} different characters, so that it "
                "can be guessed: make one with `openssl rand -hex 32`"
            ),
        )


def channels_in_production(settings: RemindersSettings) -> Iterator[Broken]:
    """No password and no message goes over the network unencrypted."""
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
