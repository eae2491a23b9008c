"""One PostgreSQL a session, one migrated database a test: cheap, since it is copied."""

import asyncio
import itertools
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.embedded import EmbeddedServer
from service.db.engine import Database
from service.db.migrate import upgrade
from service.observability.logging import configure_logging
from service.settings import Environment, Settings

TEST_SECRET = "a-secret-of-the-tests-of-at-least-32-bytes"
RELAXED = ("fsync = off", "full_page_writes = off", "autovacuum_naptime = '1h'")
"""For the session's own server only: its data need not survive the machine."""

_numbers = itertools.count()


class IsolatedSettings(Settings):
    """Settings that read neither the environment nor `.env`."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


@pytest.fixture(scope="session", autouse=True)
def _logging() -> None:
    """Log as the service does: unconfigured, structlog renders local variables, and slowly."""
    configure_logging(
        IsolatedSettings(
            environment=Environment.TEST,
            jwt_secret=SecretStr(TEST_SECRET),
            log_format="json",
            log_level="INFO",
        )
    )


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings for a test, whatever the environment says: `make_settings(lease_seconds=3)`."""

    def make(**overrides: Any) -> Settings:
        values: dict[str, Any] = {
            "environment": Environment.TEST,
            "jwt_secret": SecretStr(TEST_SECRET),
            "data_dir": tmp_path / "data",
            "log_format": "json",
            "shutdown_grace_seconds": 5.0,
            "database_pool_size": 5,
        }
        return IsolatedSettings(**(values | overrides))

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """Settings for tests, without overrides."""
    return make_settings()


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """A PostgreSQL server where databases may be made: TEST_DATABASE_URL, or one of our own."""
    url = os.environ.get("TEST_DATABASE_URL")
    if url:
        yield url
        return
    # A runner that is told to end would otherwise leave its server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="finmind-") as directory:
        server = EmbeddedServer.start(Path(directory))
        try:
            asyncio.run(_relax(server.dsn))
            yield server.dsn
        finally:
            server.stop()


@pytest.fixture(scope="session")
def template_database(server_dsn: str) -> Iterator[str]:
    """Name of a migrated database that nobody connects to, to be copied."""
    name = _database_name()
    settings = IsolatedSettings(environment=Environment.TEST, jwt_secret=SecretStr(TEST_SECRET))

    async def build() -> None:
        await _execute(server_dsn, f"CREATE DATABASE {name} TEMPLATE template0")
        database = Database(_with_database(server_dsn, name), settings)
        try:
            await upgrade(database, settings)
        finally:
            await database.close()

    asyncio.run(build())
    yield name
    asyncio.run(_execute(server_dsn, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def empty_dsn(server_dsn: str) -> AsyncIterator[str]:
    """DSN of a fresh database without a schema."""
    name = _database_name()
    await _execute(server_dsn, f"CREATE DATABASE {name} TEMPLATE template0")
    yield _with_database(server_dsn, name)
    await _execute(server_dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def pg_dsn(server_dsn: str, template_database: str) -> AsyncIterator[str]:
    """DSN of this test's own database, migrated."""
    name = _database_name()
    # STRATEGY: FILE_COPY and WAL_LOG both measured 55-80 ms, so it stays at the default.
    await _execute(server_dsn, f"CREATE DATABASE {name} TEMPLATE {template_database}")
    yield _with_database(server_dsn, name)
    await _execute(server_dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(pg_dsn: str, settings: Settings) -> AsyncIterator[Database]:
    """This test's own database, migrated."""
    database = Database(pg_dsn, settings)
    yield database
    await database.close()


@pytest.fixture
async def session(database: Database) -> AsyncIterator[AsyncSession]:
    """A session on this test's database, not in a transaction."""
    async with database.sessions() as session:
        yield session


def _database_name() -> str:
    return f"finmind_test_{os.getpid()}_{next(_numbers)}"


def _with_database(dsn: str, name: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


async def _execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=30)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _relax(dsn: str) -> None:
    await _execute(
        dsn, *(f"ALTER SYSTEM SET {setting}" for setting in RELAXED), "SELECT pg_reload_conf()"
    )
