"""What alembic/env.py runs: migrations on a given connection, on one of its own, or as printed SQL."""

import asyncio
from typing import Any

from alembic import context
from alembic.ddl.postgresql import PostgresqlImpl
from sqlalchemy import Connection, Executable, text
from sqlalchemy.util import await_only

from service.db.embedded import EmbeddedServer
from service.db.engine import Database
from service.db.migrate import migrating
from service.db.roles import new_grants_sql
from service.settings import load_settings


def run_environment() -> None:
    """Run the migrations that Alembic asked for: offline into its buffer, or on a connection."""
    given = context.config.attributes
    if context.is_offline_mode():
        _print(given["schema"] if "schema" in given else load_settings().database_schema)
    elif given.get("connection") is None:
        _run_from_command_line()
    else:
        _run_on(given["connection"], given["schema"])


def _print(schema: str) -> None:
    context.configure(
        dialect_name="postgresql",
        target_metadata=None,
        transaction_per_migration=True,
        version_table_schema=schema,
    )
    if context.get_starting_revision_argument() in {None, "base"}:
        context.get_context().impl.static_output(f'CREATE SCHEMA IF NOT EXISTS "{schema}";')
    context.get_context().impl.static_output(f'SET search_path = "{schema}";')
    with context.begin_transaction():
        context.run_migrations()
    context.get_context().impl.static_output(f"{new_grants_sql(schema)};")


def _run_on(connection: Connection, schema: str) -> None:
    context.configure(
        connection=connection,
        target_metadata=None,
        transaction_per_migration=True,
        version_table_schema=schema,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.exec_driver_sql(new_grants_sql(schema))


def _run_from_command_line() -> None:
    """The `alembic` command: no connection was handed over, so one is opened here."""
    settings = load_settings()
    server = None
    if settings.database_url is None:
        server = EmbeddedServer.start(settings.data_dir)
        dsn = server.dsn
    else:
        dsn = settings.database_url.get_secret_value()

    async def migrate() -> None:
        database = Database(dsn, settings)
        try:
            async with migrating(database, settings) as connection:
                await connection.run_sync(_run_on, database.schema)
        finally:
            await database.close()

    try:
        asyncio.run(migrate())
    finally:
        if server is not None:
            server.stop()


class ScriptImpl(PostgresqlImpl):
    """PostgreSQL for Alembic, with `op.execute` of whole scripts.

    asyncpg prepares what SQLAlchemy executes, and only one statement can be prepared at a time;
    a string is therefore handed to its simple protocol. No `:name` is replaced in it.
    """

    __dialect__ = "postgresql"

    def execute(
        self, sql: Executable | str, execution_options: dict[str, Any] | None = None
    ) -> None:
        """Run `sql` in the migration's transaction, or print it in offline mode."""
        if not isinstance(sql, str):
            super().execute(sql, execution_options)
        elif self.as_sql:
            self.static_output(sql.strip().rstrip(";") + self.command_terminator)
        else:
            assert self.connection is not None
            # SQLAlchemy begins with the first statement that it executes itself.
            self.connection.execute(text("SELECT 1"))
            raw = self.connection.connection.driver_connection
            assert raw is not None
            await_only(raw.execute(sql))
