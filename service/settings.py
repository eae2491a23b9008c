"""Every setting of the service, read from the environment (and `.env`) once, at start.

The description of a field is its documentation: docs/configuration.md is made from this file.
"""

import ipaddress
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.addresses import (
    SmtpServer,
    is_e164,
    is_loopback,
    sender,
    web_base,
)
from service.database_url import DatabaseUrl
from service.errors import ConfigurationError
from service.kept_secret import kept_secret

MIN_HS256_SECRET_BYTES = 32
"""RFC 7518 §3.2: a key of at least the size of the hash output."""
MIN_DISTINCT_CHARACTERS = 8
"""Of a secret in production: 32 random bytes in hex have 13 or more, save once in a million."""

type_list = Annotated[tuple[str, ...], NoDecode]
"""A comma-separated list in the environment."""


DEFAULT_SCHEMA: Final = "finmind_jobs"
SCHEMA_PATTERN: Final = r"^[a-z_][a-z0-9_]{0,62}$"
"""What a schema may be called: it stands in the text of statements."""

ROOT_PATH_PATTERN: Final = re.compile(r"(/[A-Za-z0-9._~-]+)*")
OWN_PATHS: Final = frozenset(
    {"jobs", "admin", "reminders", "health", "metrics", "docs", "openapi.json"}
)
"""First parts of the API's paths."""

CHANNELS: Final = (
    ("smtp_url", "email_from"),
    ("twilio_account_sid", "twilio_auth_token", "twilio_whatsapp_from"),
)
"""Settings that mean something only together."""


class Environment(StrEnum):
    """Where the service runs: development forgives, production does not."""

    DEVELOPMENT = "development"
    TEST = "test"
    PRODUCTION = "production"


class Settings(BaseSettings):
    """The settings. Every bound names its unit."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    # -- service ------------------------------------------------------------------------------
    environment: Environment = Field(
        Environment.DEVELOPMENT,
        description="`development`, `test` or `production`. Production needs `DATABASE_URL` and a real `JWT_SECRET` or `JWT_JWKS_URL`.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on. Containers set `0.0.0.0`.")
    port: int = Field(
        8000, ge=0, le=65535, description="Port that `serve` listens on; 0 takes a free one."
    )
    worker_port: int = Field(
        8001,
        ge=0,
        le=65535,
        description="Port of a `worker`'s health and metrics; 0 takes a free one.",
    )
    data_dir: Path = Field(
        Path(".data"),
        description="Where the embedded PostgreSQL and the development secret are kept.",
    )
    log_level: str = Field("INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`.")
    log_format: str = Field(
        "auto",
        pattern="^(auto|json|console)$",
        description="`json`, `console`, or `auto`: console on a terminal, else JSON.",
    )
    docs_enabled: bool = Field(True, description="Serve `/docs` and `/openapi.json`.")
    metrics_public: bool = Field(
        True, description="Serve `/metrics` without a credential; else it needs `metrics:read`."
    )

    # -- database -----------------------------------------------------------------------------
    database_url: SecretStr | None = Field(
        None,
        description="`postgresql://user:password@host:port/name`, with `host1:port,host2:port` where a standby may take over. Without it an embedded PostgreSQL 18 is started under `DATA_DIR` (never in production).",
    )
    database_schema: str = Field(
        DEFAULT_SCHEMA,
        pattern=SCHEMA_PATTERN,
        description="Schema that the tables are in; the migration makes it. While the default has none, those that an earlier version made in `public` are used. Set it for the processes that enqueue as well.",
    )
    database_pool_size: int = Field(
        10,
        ge=1,
        le=200,
        description="Connections kept for requests, beside the worker's own nine.",
    )
    database_prepared_statements: bool = Field(
        True, description="Turn off behind PgBouncer in transaction mode."
    )
    database_listen: bool = Field(
        True,
        description="Use LISTEN/NOTIFY to wake idle workers. Turn off behind PgBouncer in transaction mode: polling then does it alone.",
    )
    database_connect_timeout_seconds: float = Field(
        5.0,
        gt=0,
        le=60,
        description="Bound on opening a connection to one host; `connect_timeout` in `DATABASE_URL` wins.",
    )
    database_command_timeout_seconds: float = Field(
        10.0, gt=0, le=300, description="Bound on one statement, network included."
    )
    auto_migrate: bool = Field(
        True, description="Bring the schema up to date at start; else `migrate` must have done it."
    )
    migrate_lock_timeout_seconds: float = Field(
        0.5,
        gt=0,
        le=60,
        description="How long a migration may wait for a table lock before it lets others pass and tries again: so long do requests wait behind it.",
    )
    migrate_timeout_seconds: float = Field(
        600.0,
        gt=0,
        le=86_400,
        description="Bound on one statement of a migration, and on waiting for another process that migrates.",
    )

    # -- worker -------------------------------------------------------------------------------
    handler_modules: type_list = Field(
        (),
        description="Python modules that register handlers, comma-separated: `billing.jobs,crm.jobs`. Installed entry points of the group `finmind_jobs.handlers` are loaded as well.",
    )
    demo_handlers: bool = Field(
        False, description="Register the `demo.*` handlers (always on in development)."
    )
    worker_queues: type_list = Field(
        ("*",),
        description="Queues that this worker serves, comma-separated; `*` for all; `emails:5` runs at most 5 jobs of `emails` at once in this process, and `*,emails:5` all the others as well.",
    )
    worker_concurrency: int = Field(
        100, ge=1, le=10_000, description="Jobs that one process runs at once."
    )
    sync_handler_threads: int = Field(
        16, ge=1, le=500, description="Threads for handlers that are plain functions."
    )
    claim_batch_size: int = Field(
        200, ge=1, le=1000, description="Jobs that one claim takes at most."
    )
    settle_batch_size: int = Field(
        200,
        ge=1,
        le=1000,
        description="So many outcomes are recorded without a wait for more; what gathers meanwhile "
        "goes out together, three times as many in one statement at most.",
    )
    settle_delay_seconds: float = Field(
        0.002, ge=0, le=0.1, description="How long a settle waits for others to join its batch."
    )
    poll_min_seconds: float = Field(
        0.05, gt=0, le=10, description="First pause of an idle worker between looks at the table."
    )
    poll_max_seconds: float = Field(
        1.0, gt=0, le=60, description="Longest pause of an idle worker between looks at the table."
    )
    sweep_seconds: float = Field(
        5.0,
        gt=0,
        le=60,
        description="How often a busy worker claims from the very start of each queue and priority: late commits and expired leases are found there.",
    )
    lease_seconds: float = Field(
        30.0, ge=1, le=3600, description="How long a claim holds without a heartbeat."
    )
    heartbeat_seconds: float = Field(
        10.0,
        ge=0.1,
        le=1200,
        description="How often leases are extended; at most a third of the lease.",
    )
    max_lost_leases: int = Field(
        5,
        ge=1,
        le=100,
        description="A job that lost this many leases in a row is dead-lettered as poison. From the second on it comes back after a random delay, apart from those that were lost with it.",
    )
    shutdown_grace_seconds: float = Field(
        25.0,
        ge=0,
        le=3600,
        description="How long requests and running handlers may go on after SIGTERM, both from the signal on; then requests are cut, handlers cancelled and their jobs given back. The process ends within about 3 s more.",
    )
    unknown_type_grace_seconds: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="How long a due job waits for some worker to serve its type before it becomes FAILED, unless a worker served it within SERVED_TYPE_MEMORY_DAYS.",
    )
    served_type_memory_days: int = Field(
        7,
        ge=0,
        le=365,
        description="How long jobs of a type that a worker has served wait for one to come back, while none does; 0: no longer than those of a type that nobody ever served.",
    )

    # -- jobs ---------------------------------------------------------------------------------
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

    # -- maintenance --------------------------------------------------------------------------
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

    # -- HTTP ---------------------------------------------------------------------------------
    max_body_bytes: int = Field(
        1_048_576, ge=1024, le=67_108_864, description="Largest request body."
    )
    max_json_depth: int = Field(64, ge=4, le=200, description="Deepest nesting of a request body.")
    body_timeout_seconds: float = Field(
        30.0, gt=0, le=600, description="How long a client may take to send a request body."
    )
    header_timeout_seconds: float = Field(
        10.0,
        gt=0,
        le=600,
        description="How long a client may take to send the line and headers of a request, and how long a new connection may stay without one.",
    )
    max_header_bytes: int = Field(
        65_536, ge=8192, le=1_048_576, description="Largest line and headers of a request."
    )
    forwarded_allow_ips: type_list = Field(
        (),
        description="Addresses or networks of proxies, comma-separated, whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed; `*` believes everybody. By default nobody is: the address of a client is that of its connection.",
    )
    root_path: str = Field(
        "",
        description="Path that a proxy serves the API under, such as `/jobs-service`; the proxy may take it off or leave it. `Location` headers, `/docs` and `/openapi.json` name it.",
    )
    keep_alive_seconds: float = Field(
        75.0,
        gt=0,
        le=3600,
        description="How long a connection is kept between two requests. Longer than proxies and clients keep theirs (60 s is usual), so that they close it first and no request meets a closed one.",
    )
    answer_timeout_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="How long a client may leave more than 64 KiB of an answer unread before its connection is cut.",
    )
    slow_request_seconds: float = Field(
        1.0, gt=0, le=600, description="Requests slower than this are logged as warnings."
    )
    max_batch_jobs: int = Field(
        1000, ge=1, le=10_000, description="Jobs in one `POST /jobs/batch`."
    )
    max_page_size: int = Field(200, ge=1, le=1000, description="Jobs on one page.")
    page_scan_seconds: float = Field(
        0.025,
        gt=0,
        le=60,
        description="How long a list looks for matches that are far apart in a large table. When it is over the page is sent as it stands, even empty, and its cursor goes on from there.",
    )
    query_timeout_seconds: float = Field(
        5.0,
        gt=0,
        le=60,
        description="Bound on what one request asks of the database; over it the answer is 503.",
    )

    # -- auth ---------------------------------------------------------------------------------
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

    # -- reminders ----------------------------------------------------------------------------
    reminder_scan_seconds: float = Field(
        60.0, gt=0, le=3600, description="How often due reminders are turned into jobs."
    )
    smtp_url: SecretStr | None = Field(
        None,
        description="`smtp://`, `smtp+starttls://` or `smtp+ssl://` with `user:password@host:port`. With `EMAIL_FROM`; without the two e-mail reminders fail and say so.",
    )
    smtp_timeout_seconds: float = Field(
        20.0, gt=0, le=300, description="Bound on one SMTP delivery."
    )
    email_from: str | None = Field(
        None,
        description="Sender of e-mail reminders: `jobs@example.org` or `FinMind <jobs@example.org>`; with `SMTP_URL`.",
    )
    twilio_base_url: str = Field(
        "https://api.twilio.com", description="Twilio's API, or a stand-in for tests."
    )
    twilio_account_sid: str | None = Field(
        None, description="Twilio account of WhatsApp reminders."
    )
    twilio_auth_token: SecretStr | None = Field(None, description="Twilio credential.")
    twilio_whatsapp_from: str | None = Field(
        None, description="WhatsApp sender in E.164 form: `+14155238886`."
    )
    twilio_timeout_seconds: float = Field(
        15.0, gt=0, le=300, description="Bound on one Twilio call."
    )

    @field_validator("handler_modules", "worker_queues", "forwarded_allow_ips", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _blank_is_unset(cls, value: object, info: ValidationInfo) -> object:
        # Compose files and shells pass "VAR=" for a variable that is not set.
        optional = cls.model_fields[info.field_name or ""].default is None
        return None if optional and isinstance(value, str) and not value.strip() else value

    @field_validator("log_level", mode="after")
    @classmethod
    def _known_level(cls, value: str) -> str:
        level = value.upper()
        if level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("expected DEBUG, INFO, WARNING or ERROR")
        return level

    @field_validator("worker_queues", mode="after")
    @classmethod
    def _queue_limits(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            name, _, limit = entry.partition(":")
            if not name or (limit and not (limit.isdigit() and int(limit) > 0)):
                raise ValueError(f"{entry!r} is not `queue` or `queue:limit` with a limit above 0")
            if name == "*" and limit:
                raise ValueError(f"{entry!r}: WORKER_CONCURRENCY bounds all queues together")
        return value

    @field_validator("handler_modules", mode="after")
    @classmethod
    def _module_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"{name!r} is no module: expected names such as billing.jobs")
        return value

    @field_validator("forwarded_allow_ips", mode="after")
    @classmethod
    def _proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            try:
                if entry != "*":
                    ipaddress.ip_network(entry)
            except ValueError:
                raise ValueError(
                    f"{entry!r}: expected an address or a network such as 10.0.0.0/8"
                ) from None
        return value

    @field_validator("root_path", mode="after")
    @classmethod
    def _root_path(cls, value: str) -> str:
        root = value.rstrip("/")
        if not ROOT_PATH_PATTERN.fullmatch(root):
            raise ValueError(f"{value!r}: expected a path such as /jobs-service")
        if root.split("/")[1:2] and root.split("/")[1] in OWN_PATHS:
            # A path below it could be the API's own, or one that the proxy has left as it was.
            raise ValueError(f"{value!r}: the API has paths of that name; take another one")
        return root

    @field_validator("database_url", "smtp_url", mode="after")
    @classmethod
    def _server_address(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None:
            parse = DatabaseUrl.parse if info.field_name == "database_url" else SmtpServer.from_url
            parse(value.get_secret_value())
        return value

    @field_validator("email_from", mode="after")
    @classmethod
    def _sender_address(cls, value: str | None) -> str | None:
        if value is not None:
            sender(value)
        return value

    @field_validator("twilio_base_url", mode="after")
    @classmethod
    def _twilio_address(cls, value: str) -> str:
        return web_base(value)

    @field_validator("twilio_whatsapp_from", mode="after")
    @classmethod
    def _whatsapp_number(cls, value: str | None) -> str | None:
        if value is not None and not is_e164(value):
            raise ValueError(f"{value!r}: expected E.164, such as +14155238886")
        return value

    @field_validator("jwt_secret", mode="after")
    @classmethod
    def _long_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MIN_HS256_SECRET_BYTES:
            raise ValueError(
                f"is shorter than {MIN_HS256_SECRET_BYTES} bytes: "
                "make one with `openssl rand -hex 32`"
            )
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, values: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        """Look at how the settings fit together even where some of them are refused."""
        refused: list[InitErrorDetails] = []
        names: set[str] = set()
        try:
            settings = build(values)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                name = str(problem["loc"][0])
                names.add(name)
                refused.append(_refusal(problem["msg"].removeprefix("Value error, "), name))
            settings = build({name: value for name, value in values.items() if name not in names})
        refused += [_refusal(words) for about, words in incoherences(settings) if not about & names]
        if refused:
            raise ValidationError.from_exception_data(cls.__name__, refused)
        return settings

    @property
    def is_production(self) -> bool:
        """Whether the strict rules hold."""
        return self.environment is Environment.PRODUCTION

    def signing_secret(self) -> str | None:
        """The HS256 secret, or None where tokens are checked against a JWKS.

        In development a secret is made on first use and kept in `DATA_DIR/jwt_secret` (mode 600),
        so that tokens outlive a restart and other commands can make them.
        """
        if self.jwt_secret is not None:
            return self.jwt_secret.get_secret_value()
        if self.jwt_jwks_url is not None or self.is_production:
            return None
        return kept_secret(self.secret_file)

    @property
    def secret_file(self) -> Path:
        """Where development keeps the secret that nobody set."""
        return self.data_dir.expanduser().resolve() / "jwt_secret"


def incoherences(settings: Settings) -> Iterator[tuple[set[str], str]]:
    """What is wrong between settings that are each right: their names, and why in words."""
    s = settings
    if s.heartbeat_seconds * 3 > s.lease_seconds:
        yield (
            {"heartbeat_seconds", "lease_seconds"},
            (
                f"HEARTBEAT_SECONDS ({s.heartbeat_seconds:g}) must be at most a third of LEASE_SECONDS "
                f"({s.lease_seconds:g}), so that two lost heartbeats cost no lease"
            ),
        )
    if s.poll_min_seconds > s.poll_max_seconds:
        yield (
            {"poll_min_seconds", "poll_max_seconds"},
            "POLL_MIN_SECONDS must not be above POLL_MAX_SECONDS",
        )
    for together in CHANNELS:
        missing = [name for name in together if getattr(s, name) is None]
        if 0 < len(missing) < len(together):
            yield (
                set(together),
                (
                    f"{' and '.join(name.upper() for name in together)} belong together: "
                    f"set {' and '.join(name.upper() for name in missing)} as well"
                ),
            )
    if s.is_production:
        yield from _unsafe_in_production(s)


def _unsafe_in_production(settings: Settings) -> Iterator[tuple[set[str], str]]:
    if settings.database_url is None:
        yield (
            {"database_url"},
            (
                "ENVIRONMENT=production needs DATABASE_URL (the embedded PostgreSQL is for development "
                "only)"
            ),
        )
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


def _refusal(words: str, name: str | None = None) -> InitErrorDetails:
    """One problem, of one setting or of several; without the value, which may be secret."""
    return InitErrorDetails(
        type=PydanticCustomError("settings", "{words}", {"words": words}),
        loc=() if name is None else (name,),
        input=None,
    )


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        ConfigurationError: a value is missing or refused; every one of them is named.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            ": ".join([*(str(part).upper() for part in problem["loc"][:1]), problem["msg"]])
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigurationError("Bad configuration:\n  " + "\n  ".join(lines)) from None
