"""One PostgreSQL a session, one migrated database a test: copied, or renewed after another test."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.db.migrate import upgrade
from service.jobs.notify.publisher import publisher_for
from service.observability.logging import configure_logging
from service.settings import Environment, Settings
from service.testing.server import embedded_server
from service.testing.settings import IsolatedSettings
from tests import databases
from tests.running import COMMAND, ROOT, Run, Running, Start, postgres_of

TEST_SECRET = "a-secret-of-the-tests-of-at-least-32-bytes"
PROCESSES = frozenset({"environment", "fleet", "trial", "cluster", "wheel"})
"""The fixtures with which a test starts processes."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-fast` leaves out, besides what is marked by hand because it is slow."""
    for item in items:
        if not PROCESSES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.whole)


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
            # Of a slow machine, with fifty connections at once.
            "database_connect_timeout_seconds": 30.0,
        }
        return IsolatedSettings(**(values | overrides))

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """Settings for tests, without overrides."""
    return make_settings()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A newcomer's environment: nothing set but where the data goes and a free port."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DATA_DIR": str(tmp_path / "data"),
        "PORT": "0",
        "WORKER_PORT": "0",
    }


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree as `make wheel` does it."""
    target = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check",
         "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(target), str(ROOT)],
        check=True,
        timeout=50,
    )  # fmt: skip
    (made,) = target.iterdir()
    return made


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run one command to its end."""

    def run(*arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*COMMAND, *arguments],
            env=environment | extra,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    return run


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start a long-running command; whatever is left of it is killed after the test."""
    started: list[Running] = []

    def start(*arguments: str, **extra: str) -> Running:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environment | extra,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(Running(process))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.process.communicate(timeout=10)
    for process in postgres_of(tmp_path):
        process.kill()


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """A PostgreSQL server where databases may be made: TEST_DATABASE_URL, or one of our own."""
    url = os.environ.get("TEST_DATABASE_URL")
    if url:
        yield url
        return
    # A runner that is told to end would otherwise leave its server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with embedded_server() as dsn:
        yield dsn


@dataclass(frozen=True)
class Template:
    """A migrated database that nobody connects to, to be copied."""

    name: str
    fingerprint: str


@pytest.fixture(scope="session")
def template_database(server_dsn: str) -> Iterator[Template]:
    """What the tests' databases are copies of."""
    name = databases.new_name()
    dsn = databases.with_database(server_dsn, name)
    settings = IsolatedSettings(environment=Environment.TEST, jwt_secret=SecretStr(TEST_SECRET))

    async def build() -> str:
        await databases.execute(
            server_dsn, f"CREATE DATABASE {name} TEMPLATE template0", databases.search_path(name)
        )
        database = Database(dsn, settings)
        try:
            await upgrade(database, settings)
        finally:
            await database.close()
        return await databases.fingerprint(dsn)

    yield Template(name, asyncio.run(build()))
    for made in (name, *databases.SPARE):
        asyncio.run(databases.execute(server_dsn, f"DROP DATABASE {made} WITH (FORCE)"))
    databases.SPARE.clear()


@pytest.fixture
async def empty_dsn(server_dsn: str) -> AsyncIterator[str]:
    """DSN of a fresh database without a schema."""
    name = databases.new_name()
    await databases.execute(
        server_dsn, f"CREATE DATABASE {name} TEMPLATE template0", databases.search_path(name)
    )
    yield databases.with_database(server_dsn, name)
    await databases.execute(server_dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def pg_dsn(server_dsn: str, template_database: Template) -> AsyncIterator[str]:
    """DSN of this test's own database, migrated, without a row."""
    if databases.SPARE:
        name = databases.SPARE.pop()
    else:
        name = databases.new_name()
        # STRATEGY: FILE_COPY and WAL_LOG were measured alike, so it stays at the default.
        await databases.execute(
            server_dsn,
            f"CREATE DATABASE {name} TEMPLATE {template_database.name}",
            databases.search_path(name),
        )
    dsn = databases.with_database(server_dsn, name)
    yield dsn
    if await databases.renew(dsn, template_database.fingerprint):
        databases.SPARE.append(name)
    else:
        await databases.execute(server_dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(pg_dsn: str, settings: Settings) -> AsyncIterator[Database]:
    """This test's own database, migrated."""
    database = Database(pg_dsn, settings)
    yield database
    # What was committed last may be about to be announced, from a connection of the pool.
    await publisher_for(database.engine).close()
    await database.close()


@pytest.fixture
async def session(database: Database) -> AsyncIterator[AsyncSession]:
    """A session on this test's database, not in a transaction."""
    async with database.sessions() as session:
        yield session
