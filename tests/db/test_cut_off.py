"""A connection that is closed while asyncpg prepares a statement is an error of the database."""

from typing import Any, Final

import asyncpg
import pytest
from sqlalchemy import text

from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS

MAKE_TYPE: Final = "CREATE TYPE mine AS (n int)"
USE_TYPE: Final = "SELECT ROW(1)::mine"


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are closed as soon as they have looked a type up, and miss another still."""
    introspect = asyncpg.Connection._introspect_types  # type: ignore[attr-defined]

    async def look_up(connection: Any, *args: Any, **options: Any) -> Any:
        _, statement = await introspect(connection, *args, **options)
        connection.terminate()
        return [], statement

    monkeypatch.setattr(asyncpg.Connection, "_introspect_types", look_up)


@pytest.mark.usefixtures("cut_off")
async def test_requests_see_an_error_of_the_database(database: Database) -> None:
    async with database.engine.connect() as connection:
        await connection.execute(text(MAKE_TYPE))
        with pytest.raises(DATABASE_ERRORS):
            await connection.execute(text(USE_TYPE))


@pytest.mark.usefixtures("cut_off")
async def test_duties_see_an_error_of_the_database_and_connect_again(database: Database) -> None:
    link = database.link()
    await link.fetch(MAKE_TYPE)
    with pytest.raises(DATABASE_ERRORS):
        await link.fetch(USE_TYPE)
    assert [tuple(row) for row in await link.fetch("SELECT 1")] == [(1,)]
    await link.close()
