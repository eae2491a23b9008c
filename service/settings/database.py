"""Where the jobs are kept, and how the service connects to it and migrates it."""

from typing import Final

from pydantic import BaseModel, Field, SecretStr, field_validator

from service.settings.database_url import DatabaseUrl

DEFAULT_SCHEMA: Final = "finmind_jobs"
SCHEMA_PATTERN: Final = r"^[a-z_][a-z0-9_]{0,62}$"
"""What a schema may be called: it stands in the text of statements."""


class DatabaseSettings(BaseModel):
    """The database."""

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

    @field_validator("database_url", mode="after")
    @classmethod
    def _readable_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            DatabaseUrl.parse(value.get_secret_value())
        return value
