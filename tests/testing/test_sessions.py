"""Whose transaction a test runs in."""

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine

from service.db.engine import Database
from service.errors import ConfigurationError, InvalidInput
from service.jobs import Registry, enqueue
from service.testing import open_jobs


@pytest.fixture
def known(handlers: Registry) -> Registry:
    handlers.handler("known")(lambda payload: None)
    return handlers


async def test_a_session_of_the_application_is_as_good(database: Database, known: Registry) -> None:
    async with database.sessions() as session, open_jobs(session, handlers=known) as jobs:
        await jobs.enqueue("known")
        await session.rollback()  # as code does whose request failed
        await jobs.assert_not_enqueued()
        await jobs.enqueue("known")
        assert len(await jobs.run_due()) == 1


async def test_a_session_that_joined_a_connection_is_as_good(
    connection: AsyncConnection, handlers: Registry
) -> None:
    joined = AsyncSession(connection, join_transaction_mode="create_savepoint")
    async with joined as session, open_jobs(session, handlers=handlers) as jobs:

        @handlers.handler("fails")
        async def fails(payload: object) -> None:
            await session.execute(text("SELECT 1"))
            await session.rollback()
            raise OSError("away")

        await jobs.move_clock(hours=1)
        await enqueue(session, "fails", delay_seconds=60)
        await session.commit()
        assert await jobs.run_due() == []
        await jobs.move_clock(minutes=1)
        [ran] = await jobs.run_due(raise_errors=False)
        assert (ran.outcome, ran.delay_seconds) == ("retried", 30)
        assert len(await jobs.run_for(seconds=31, raise_errors=False)) == 1


async def test_a_connection_of_asyncpg_is_as_good(pg_dsn: str, known: Registry) -> None:
    raw = await asyncpg.connect(pg_dsn)
    try:
        with pytest.raises(ConfigurationError, match="The asyncpg connection is in no transaction"):
            async with open_jobs(raw):
                raise AssertionError
        transaction = raw.transaction()
        await transaction.start()
        async with open_jobs(raw, handlers=known) as jobs:
            await jobs.enqueue("known")
            assert len(await jobs.run_due()) == 1
        await transaction.rollback()
        assert await raw.fetchval("SELECT count(*) FROM background_jobs") == 0
    finally:
        await raw.close()


async def test_a_commit_is_noticed(database: Database, known: Registry) -> None:
    async def commit() -> None:
        async with database.sessions() as session, open_jobs(session, handlers=known) as jobs:
            await jobs.enqueue("known")
            await session.commit()

    with pytest.raises(ConfigurationError, match="The transaction of this test was committed"):
        await commit()


async def test_a_connection_that_commits_by_itself_is_refused(database: Database) -> None:
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(ConfigurationError, match="commits each statement by itself"):
            async with open_jobs(connection):
                raise AssertionError


async def test_jobs_of_others_are_not_run(database: Database, connection: AsyncConnection) -> None:
    async with database.sessions.begin() as session:
        async with open_jobs(connection) as jobs:
            await jobs.enqueue("own")
            await jobs.assert_enqueued("own", count=1)
        await enqueue(session, "others")
    with pytest.raises(
        ConfigurationError, match="holds 1 live jobs that this test did not enqueue"
    ):
        async with open_jobs(connection):
            raise AssertionError


async def test_what_is_no_session_is_refused(empty_dsn: str) -> None:
    with pytest.raises(InvalidInput, match="session is a builtins"):
        async with open_jobs("postgresql:///"):  # type: ignore[arg-type]
            raise AssertionError
    url = empty_dsn.replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(url)
    async with AsyncSession(engine) as session:
        with pytest.raises(ConfigurationError, match="This database has no job tables"):
            async with open_jobs(session):
                raise AssertionError
    await engine.dispose()


async def test_a_setting_that_there_is_not_is_refused(connection: AsyncConnection) -> None:
    with pytest.raises(ConfigurationError, match="There is no setting 'max_retries'"):
        async with open_jobs(connection, max_retries=1):
            raise AssertionError
    with pytest.raises(ConfigurationError, match="default_max_retries: Input should be greater"):
        async with open_jobs(connection, default_max_retries=-1):
            raise AssertionError
