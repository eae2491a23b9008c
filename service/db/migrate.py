"""Migrates the schema to a revision: one process at a time, each migration in its own transaction.

The scripts are in `alembic/versions`, as hand-written SQL. They must be compatible with the previous
version, because old workers keep running while new ones start.

Alembic is imported by what migrates alone: of a process on a schema that is up to date it would be 9 MB.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import asyncpg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from service.db.engine import Database
from service.db.schema import lock_key, remember
from service.errors import ConfigurationError, Unavailable
from service.settings import DEFAULT_SCHEMA, Settings

if TYPE_CHECKING:
    from alembic.config import Config

logger = logging.getLogger(__name__)

ADVISORY_LOCK: Final = 0x66696E6D696E64
"""Key of the lock that lets one process migrate at a time: "finmind" in ASCII."""
LOCK_POLL_SECONDS: Final = 0.1
LOCK_CONFLICTS: Final = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
"""What a migration meets on tables in use. It locks a table before its partitions; workers name a
partition first: if neither gives way in time, PostgreSQL ends one of them."""
ATTEMPTS: Final = 40
"""How often a migration is tried that gets no table lock."""
PAUSE_SECONDS: Final = 0.5
"""Pause between two of those: the lock queue that the migration held up drains meanwhile."""


async def upgrade(database: Database, settings: Settings, revision: str = "head") -> None:
    """Bring the schema to `revision`; return at once if it is there already.

    A schema newer than this code is left as it is: during a roll-out, old processes run on it.

    Raises:
        ConfigurationError: there is no such revision.
        Unavailable: another process migrates, or holds the tables, for too long.
    """
    target = _resolve(revision)
    if await current_revision(database) == target:
        return
    async with migrating(database, settings) as connection:
        current = await connection.run_sync(_current)
        if current is not None and current not in revisions():
            logger.warning(
                "schema_is_newer", extra={"revision": current, "newest_known": head_revision()}
            )
            return
        await _run(database, connection, settings, "upgrade", target)
        if current != target:
            logger.info("schema_migrated", extra={"before": current, "after": target})


async def prepare(database: Database, settings: Settings) -> None:
    """Bring the schema up to date or, if `AUTO_MIGRATE` is off, check that it is.

    Raises:
        ConfigurationError: it is off, and the schema is missing or behind.
        Unavailable: another process migrates, or holds the tables, for too long.
    """
    if settings.auto_migrate:
        await upgrade(database, settings)
        return
    current = await current_revision(database)
    if current is None:
        state = "has no schema"
    elif current in revisions()[:-1]:
        state = f"is at revision {current}, and this version needs {head_revision()}"
    else:
        return
    raise ConfigurationError(
        f"The database {state}. AUTO_MIGRATE is off: run `python -m service migrate` first."
    )


async def downgrade(database: Database, settings: Settings, revision: str) -> None:
    """Take the schema back to `revision`, `base` for none at all. Data of dropped tables is lost.

    Raises:
        ConfigurationError: there is no such revision, or the schema is newer than this code.
        Unavailable: another process migrates, or holds the tables, for too long.
    """
    target = _resolve(revision)
    async with migrating(database, settings) as connection:
        current = await connection.run_sync(_current)
        if current is not None and current not in revisions():
            raise ConfigurationError(
                f"The schema is at revision {current}, which this version does not know: "
                "downgrade with the version that made it"
            )
        await _run(database, connection, settings, "downgrade", target)


async def current_revision(database: Database) -> str | None:
    """The current revision of the schema; None for an empty database."""
    async with database.engine.connect() as connection:
        return await connection.run_sync(_current)


def head_revision() -> str:
    """The newest revision that this code knows."""
    return _resolve("head")


def revisions() -> tuple[str, ...]:
    """Every revision that this code knows, oldest first."""
    return _revisions_in(_scripts_path())


def render_sql(
    start: str | None = None, revision: str = "head", *, schema: str = DEFAULT_SCHEMA
) -> str:
    """The SQL that leads from `start` (None: an empty database) to `revision`, for reading."""
    target = _resolve(revision)
    if start == target:
        return ""
    from alembic import command

    buffer = StringIO()
    config = _config(schema, output=buffer)
    command.upgrade(config, f"{start}:{target}" if start else target, sql=True)
    return buffer.getvalue()


@asynccontextmanager
async def migrating(database: Database, settings: Settings) -> AsyncIterator[AsyncConnection]:
    """A connection of its own that holds the advisory lock, with the timeouts of a migration.

    Objects that it creates without naming a schema go to that of the tables, which exists.
    """
    schema = await database.find_schema()

    async def connect(**_: Any) -> "asyncpg.Connection[asyncpg.Record]":
        return await database.hosts.connect(
            command_timeout=settings.migrate_timeout_seconds,
            server_settings={"application_name": "finmind-jobs migrate"},
        )

    engine = create_async_engine(
        "postgresql+asyncpg://", connect_args={"async_creator_fn": connect}, poolclass=NullPool
    )
    remember(engine.sync_engine, schema)
    try:
        async with engine.connect() as connection:
            await _configure(connection, settings, schema)
            await _lock(connection, settings, schema)
            await _make_schema(connection, schema)
            yield connection
    finally:
        # Closing the connection gives the advisory lock back, whatever state it is in.
        await engine.dispose()


async def _configure(connection: AsyncConnection, settings: Settings, schema: str) -> None:
    for name, value in (
        ("lock_timeout", f"{int(settings.migrate_lock_timeout_seconds * 1000)}ms"),
        ("statement_timeout", f"{int(settings.migrate_timeout_seconds * 1000)}ms"),
        ("search_path", f'"{schema}"'),
    ):
        await connection.execute(
            text("SELECT set_config(:name, :value, false)"), {"name": name, "value": value}
        )
    await connection.commit()


async def _make_schema(connection: AsyncConnection, schema: str) -> None:
    """Make the schema if it is missing: the version table comes before the first migration."""
    there = text("SELECT to_regnamespace(CAST(:name AS text)) IS NOT NULL")
    try:
        if not await connection.scalar(there, {"name": schema}):
            await connection.execute(text(f'CREATE SCHEMA "{schema}"'))
        await connection.commit()
    except DBAPIError as error:
        if _sqlstate(error) != asyncpg.InsufficientPrivilegeError.sqlstate:
            raise
        raise ConfigurationError(
            f"There is no schema {schema} and this role may not create it: run the SQL of "
            "`python -m service roles` as an administrator first"
        ) from error


async def _lock(connection: AsyncConnection, settings: Settings, schema: str) -> None:
    # Polled, not waited for: a waiting statement would hold a snapshot, and CREATE INDEX
    # CONCURRENTLY in the process that migrates waits for every snapshot to go.
    deadline = time.monotonic() + settings.migrate_timeout_seconds
    while True:
        got = await connection.scalar(
            text("SELECT pg_try_advisory_lock(:key)"), {"key": lock_key(ADVISORY_LOCK, schema)}
        )
        await connection.commit()
        if got:
            return
        if time.monotonic() > deadline:
            raise Unavailable(
                "Another process has been migrating for over "
                f"{settings.migrate_timeout_seconds:g} s (MIGRATE_TIMEOUT_SECONDS)"
            )
        await asyncio.sleep(LOCK_POLL_SECONDS)


async def _run(
    database: Database,
    connection: AsyncConnection,
    settings: Settings,
    direction: Literal["upgrade", "downgrade"],
    target: str,
) -> None:
    """Run Alembic on the connection; try again while the tables are locked by others."""
    from alembic import command

    def on_connection(sync_connection: Connection) -> None:
        getattr(command, direction)(_config(database.schema, connection=sync_connection), target)

    for attempt in range(1, ATTEMPTS + 1):
        try:
            await connection.run_sync(on_connection)
            await connection.commit()
        except (*LOCK_CONFLICTS, DBAPIError) as error:
            await connection.rollback()
            if not _is_lock_conflict(error):
                raise
            logger.warning(
                "migration_waits_for_lock", extra={"attempt": attempt, "attempts": ATTEMPTS}
            )
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            return
    raise Unavailable(
        f"Migration got no table lock in {ATTEMPTS} tries of "
        f"{settings.migrate_lock_timeout_seconds:g} s (MIGRATE_LOCK_TIMEOUT_SECONDS): "
        "end the long transactions on the job tables, or try at a quieter time"
    )


def _is_lock_conflict(error: BaseException) -> bool:
    return _sqlstate(error) in {conflict.sqlstate for conflict in LOCK_CONFLICTS}


def _sqlstate(error: BaseException) -> str | None:
    """Of an error of asyncpg's or of SQLAlchemy's around it."""
    return getattr(error, "sqlstate", None) or getattr(
        getattr(error, "orig", None), "sqlstate", None
    )


def _current(connection: Connection) -> str | None:
    try:
        if connection.scalar(text("SELECT to_regclass('finmind_jobs.alembic_version')")) is None:
            return None
        revision: str | None = connection.scalar(
            text("SELECT version_num FROM finmind_jobs.alembic_version")
        )
        if revision is not None and not connection.scalar(
            text("SELECT to_regclass('finmind_jobs.jobs_live')")
        ):
            raise ConfigurationError(
                f"The schema holds another application's alembic_version, at {revision!r}, and no "
                "jobs: set DATABASE_SCHEMA to a schema that is this service's own"
            )
        return revision
    finally:
        # Else Alembic would take the transaction for somebody's who commits all migrations at once.
        connection.rollback()


def _scripts_path() -> Path:
    """The migration scripts: at the root of the repository, or inside the installed package."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_alembic"
    return installed if installed.is_dir() else package.parent / "alembic"


def _config(
    schema: str, *, connection: Connection | None = None, output: StringIO | None = None
) -> "Config":
    from alembic.config import Config

    config = Config(output_buffer=output) if output is not None else Config()
    config.set_main_option("script_location", str(_scripts_path()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["schema"] = schema
    return config


@cache
def _revisions_in(scripts: Path) -> tuple[str, ...]:
    """The numbers that the names of the scripts begin with, which are their revisions."""
    files = (scripts / "versions").glob("[0-9]*_*.py")
    return tuple(sorted(file.name.partition("_")[0] for file in files))


def _resolve(revision: str) -> str:
    if revision == "base":
        return revision
    known = revisions()
    target = known[-1] if revision == "head" else revision
    if target not in known:
        raise ConfigurationError(
            f"There is no migration {revision!r}: expected head, base or one of {', '.join(known)}"
        )
    return target
