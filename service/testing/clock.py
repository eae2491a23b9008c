"""A clock that the test moves.

The functions of time that statements call, `now()` and such, are found in a schema of their own before PostgreSQL's:
by every statement on the connection of the test, and by nobody else. Defaults of columns and functions with a
search path of their own, `enqueue_job` among them, keep the true time.
"""

from datetime import datetime, timedelta
from typing import Final

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import ConfigurationError

SCHEMA: Final = "finmind_jobs_clock"

_MOVED: Final = "pg_catalog.current_setting('finmind_jobs.clock_moved_by')::pg_catalog.interval"
_FUNCTIONS: Final = {
    # Fixed within a statement, as that is a transaction of its own in a service.
    "now": ("STABLE", "statement_timestamp"),
    "transaction_timestamp": ("STABLE", "statement_timestamp"),
    "statement_timestamp": ("STABLE", "statement_timestamp"),
    "clock_timestamp": ("VOLATILE", "clock_timestamp"),
}
"""Each with its volatility, and what it asks."""

_STATE: Final = text(
    "SELECT current_setting('search_path'), to_regnamespace(:schema) IS NOT NULL,"
    " current_setting('finmind_jobs.clock_moved_by', true)"
)
_REAL: Final = text("SELECT pg_catalog.clock_timestamp()")
_SET: Final = text(
    "SELECT set_config('finmind_jobs.clock_moved_by', :moved_by, true),"
    " set_config('search_path', :path, true)"
)


class Clock:
    """How far the clock of a test is ahead of the database's.

    A rollback to a savepoint takes the settings along: `TransactionDatabase.renew` sets it before each use.
    """

    def __init__(self) -> None:
        self.moved_by = timedelta()
        self._moves: list[tuple[datetime, timedelta]] = []
        """When it was moved, by the clock of the database, and how far it was moved in all then."""

    async def move(self, connection: AsyncConnection, by: timedelta) -> None:
        """Move it, from the next `set` on."""
        moment: datetime = (await connection.execute(_REAL)).scalar_one()
        self.moved_by += by
        self._moves.append((moment, self.moved_by))

    def seen_at(self, moment: datetime) -> datetime:
        """What it showed when the clock of the database showed `moment`: defaults of columns take that one."""
        moved_by = [moved_by for moved_at, moved_by in self._moves if moved_at <= moment]
        return moment + (moved_by[-1] if moved_by else timedelta())

    async def set(self, connection: AsyncConnection) -> None:
        """Have the statements that follow in the transaction see the moved time."""
        path, is_made, moved_by = (await connection.execute(_STATE, {"schema": SCHEMA})).one()
        words = f"{self.moved_by / timedelta(microseconds=1):.0f} microseconds"
        if not is_made:
            await make_functions(connection)
        if moved_by != words or SCHEMA not in path:
            await connection.execute(_SET, {"moved_by": words, "path": _path(path)})

    async def now(self, connection: AsyncConnection) -> datetime:
        """The time by this clock; `set` comes first."""
        moment: datetime = (await connection.execute(text("SELECT now()"))).scalar_one()
        return moment


def _path(path: str) -> str:
    """The search path with the clock before PostgreSQL's functions, and behind all else: new tables go where they did."""
    if SCHEMA in path:
        return path
    return (
        f"{SCHEMA}, {path}" if "pg_catalog" in path else f"{path or 'public'}, {SCHEMA}, pg_catalog"
    )


async def make_functions(connection: AsyncConnection) -> None:
    """Make the functions, or make them anew, in the transaction of the connection.

    Raises:
        ConfigurationError: its role may not make a schema.
    """
    try:
        await connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != asyncpg.InsufficientPrivilegeError.sqlstate:
            raise
        raise ConfigurationError(
            f"The role of this test may not make the schema {SCHEMA}, by which the clock is moved: call "
            "service.testing.migrate(url) once before the tests, with the URL of the database's owner"
        ) from error
    await connection.execute(text(f"GRANT USAGE ON SCHEMA {SCHEMA} TO PUBLIC"))
    for name, (volatility, asked) in _FUNCTIONS.items():
        await connection.execute(
            text(
                f"CREATE OR REPLACE FUNCTION {SCHEMA}.{name}() RETURNS timestamptz LANGUAGE sql {volatility}"
                f" AS $$ SELECT pg_catalog.{asked}() + {_MOVED.replace(':', chr(92) + ':')} $$"
            )
        )
