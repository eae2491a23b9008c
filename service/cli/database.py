"""The database that a command works on: that of DATABASE_URL, or the embedded one."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from service.cli.command import say
from service.db import migrate
from service.db.embedded import EmbeddedServer
from service.db.engine import Database
from service.settings import Settings
from service.signals import ENDING, ending

T = TypeVar("T")


@contextlib.contextmanager
def database_dsn(settings: Settings, *, says_where: bool = False) -> Iterator[str]:
    """The URL of the database; the last process that leaves the embedded server stops it.

    Short commands print it: in another directory they would use another database.
    """
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    server = EmbeddedServer.start(settings.data_dir)
    if says_where:
        made = "a new, empty database was made in" if server.made else "using the database in"
        say(f"No DATABASE_URL is set: {made} {settings.secret_file.parent} (DATA_DIR).")
    try:
        yield server.dsn
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)  # stopping is bounded: let it end
        server.stop()


def with_database(
    settings: Settings, run: Callable[[Database], Awaitable[T]], *, migrated: bool = True
) -> T:
    """Run a short command on the database; unless `migrated` is false, bring its schema up to date.

    A signal cancels the command and exits with 128 and its number.
    """
    received: list[int] = []

    async def inside(dsn: str) -> T:
        _cancel_by_signal(received)
        database = Database(dsn, settings)
        try:
            if migrated:
                await migrate.prepare(database, settings)
            return await run(database)
        finally:
            await database.close()

    with database_dsn(settings, says_where=True) as dsn:
        try:
            return asyncio.run(inside(dsn))
        except asyncio.CancelledError:
            if not received:
                raise
            sys.exit(128 + received[0])


def _cancel_by_signal(received: list[int]) -> None:
    """Let a signal cancel the current task, and note it in `received`.

    An exception raised by a signal handler can be lost in a callback of the driver. SIGINT is asyncio's
    own.
    """
    task = asyncio.current_task()
    assert task is not None

    def cancel(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in ending():
        if number is not signal.SIGINT:
            asyncio.get_running_loop().add_signal_handler(number, cancel, number)
