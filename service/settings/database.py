"""Settings of the database: its address, schema, connections and migrations."""

from typing import Final

from pydantic import BaseModel, Field, SecretStr, field_validator

from service.settings.database_url import DatabaseUrl

DEFAULT_SCHEMA: Final = "finmind_jobs"
SCHEMA_PATTERN: Final = r"^[a-z_][a-z0-9_]{0,62}$"
"""Valid names of a schema. The name becomes part of the SQL text, so it must need no quoting."""


class DatabaseSettings(BaseModel):
    """Address, schema, connections and migrations."""

    database_url: SecretStr | None = Field(
        None,
        description="`postgresql://user:password@host:port/name`, or `host1:port,host2:port` for a primary and its standbys. If unset, the service starts an embedded PostgreSQL 18 under `DATA_DIR` (never in production).",
    )
    database_schema: str = Field(
        DEFAULT_SCHEMA,
        pattern=SCHEMA_PATTERN,
        description="Schema that holds the tables; the migration creates it. If the default schema has no tables, the service uses those that an earlier version created in `public`. Set it to the same value in every process that enqueues.",
    )
    database_pool_size: int = Field(
        10,
        ge=1,
        le=200,
        description="Connections kept for requests, in addition to the worker's own nine.",
    )
    database_prepared_statements: bool = Field(
        True, description="Use prepared statements. Turn off behind PgBouncer in transaction mode."
    )
    database_listen: bool = Field(
        True,
        description="Use LISTEN/NOTIFY to wake idle workers. Turn off behind PgBouncer in transaction mode; workers then only poll.",
    )
    database_connect_timeout_seconds: float = Field(
        5.0,
        gt=0,
        le=60,
        description="Timeout for connecting to one host. `connect_timeout` in `DATABASE_URL` takes precedence.",
    )
    database_command_timeout_seconds: float = Field(
        10.0, gt=0, le=300, description="Timeout for one statement, including the network."
    )
    auto_migrate: bool = Field(
        True, description="Migrate the schema at start. If false, run `migrate` first."
    )
    migrate_lock_timeout_seconds: float = Field(
        0.5,
        gt=0,
        le=60,
        description="How long a migration waits for a table lock before it gives way and tries again. Requests wait behind it for that long.",
    )
    migrate_timeout_seconds: float = Field(
        600.0,
        gt=0,
        le=86_400,
        description="Timeout for one statement of a migration, and for waiting on another process that is migrating.",
    )

    @field_validator("database_url", mode="after")
    @classmethod
    def _readable_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            DatabaseUrl.parse(value.get_secret_value())
        return value
