"""Migrations: safe to run by many at once, bounded, reversible."""

from sqlalchemy import text

from service.db.engine import Database
from service.db.migrate import current_revision, head_revision


async def test_a_test_database_is_at_the_newest_revision(database: Database) -> None:
    assert await current_revision(database) == head_revision()
    async with database.engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM background_jobs")) == 0
