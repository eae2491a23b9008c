"""A connection to look and to meddle with."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from service.db.engine import Database


@pytest.fixture
async def sql(database: Database) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await database.connect()
    yield connection
    await connection.close(timeout=5)
