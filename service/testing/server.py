"""A database for tests: an embedded PostgreSQL for as long as they run, and the schema in it."""

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import asyncpg

from service.db.embedded import EmbeddedServer
from service.db.engine import Database
from service.db.migrate import upgrade
from service.testing.clock import make_functions
from service.testing.settings import settings_of

GUARD: Final = """
cat
read -r pid < "$0/postgres/postmaster.pid" && kill -QUIT "$pid"
for _ in $(seq 100); do kill -0 "$pid" || break; sleep 0.1; done
rm -rf "$0"
"""
"""Waits for the end of its input, then ends the server if it still runs, and removes its files."""

RELAXED: Final = ("fsync = off", "full_page_writes = off", "autovacuum_naptime = '1h'")
"""Its data need not survive the machine."""


def migrate(url: str) -> None:
    """Bring the schema of the jobs in a test database up to date; blocks.

    Raises:
        ConfigurationError: the URL is refused.
        OSError | asyncpg.PostgresError: the database cannot be reached, or refuses.
    """
    asyncio.run(_migrate(url))


async def _migrate(url: str) -> None:
    settings = settings_of()
    database = Database(url, settings)
    try:
        await upgrade(database, settings)
        async with database.engine.begin() as connection:
            await make_functions(connection)
    finally:
        await database.close()


@contextmanager
def embedded_server() -> Iterator[str]:
    """A PostgreSQL of its own: its URL. Neither the server nor its files outlive this process.

    Raises:
        ConfigurationError: the package is not installed, or the server does not start.
    """
    with server_directory() as directory:
        server = EmbeddedServer.start(directory)
        try:
            asyncio.run(_relax(server.dsn))
            yield server.dsn
        finally:
            server.stop()


@contextmanager
def server_directory() -> Iterator[Path]:
    """A directory for a server; neither outlives this process, however it ends."""
    # Not in pytest's folder: every other pytest that starts takes the server's user out of that.
    directory = tempfile.mkdtemp(prefix="finmind-")
    with subprocess.Popen(  # noqa: S603 - nothing of it is given
        ["sh", "-c", GUARD, directory],  # noqa: S607 - found as any command is
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C ends the tests, and by that the guard
    ):
        yield Path(directory)


async def _relax(dsn: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=30)
    try:
        for setting in RELAXED:
            await connection.execute(f"ALTER SYSTEM SET {setting}")
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()
