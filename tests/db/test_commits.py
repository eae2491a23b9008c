"""What is asked for in a transaction happens after its commit, once, or never."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from service.db.after_commit import after_commit
from service.db.engine import Database

Opened = AsyncSession | AsyncConnection


@pytest.fixture(params=["session", "connection"])
async def transaction(
    database: Database, request: pytest.FixtureRequest
) -> AsyncIterator[AsyncSession | AsyncConnection]:
    """A session, or a connection, that has not begun yet."""
    kinds: dict[str, Callable[[], AbstractAsyncContextManager[Opened]]] = {
        "session": database.sessions,
        "connection": database.engine.connect,
    }
    async with kinds[request.param]() as opened:
        yield opened


async def test_a_call_comes_once_and_after_the_commit(transaction: Opened) -> None:
    calls: list[str] = []
    await transaction.execute(text("CREATE TEMPORARY TABLE mine (n int)"))
    assert await after_commit(transaction, lambda: calls.append("called"))
    assert calls == []
    await transaction.commit()
    assert calls == ["called"]
    await transaction.execute(text("SELECT 1"))
    await transaction.commit()
    assert calls == ["called"]


async def test_a_rollback_calls_nobody_and_forgets(transaction: Opened) -> None:
    calls: list[str] = []
    await transaction.execute(text("SELECT 1"))
    await after_commit(transaction, lambda: calls.append("rolled back"))
    await transaction.rollback()
    await transaction.execute(text("SELECT 1"))
    await transaction.commit()
    assert calls == []


async def test_a_commit_that_fails_calls_nobody(database: Database, transaction: Opened) -> None:
    calls: list[str] = []
    async with database.sessions.begin() as session:
        await session.execute(
            text("CREATE TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        )
    await transaction.execute(text("INSERT INTO late VALUES (1), (1)"))
    await after_commit(transaction, lambda: calls.append("called"))
    with pytest.raises(IntegrityError):
        await transaction.commit()
    assert calls == []
    # Nor does the next transaction of that connection.
    await transaction.rollback()
    await transaction.execute(text("SELECT 1"))
    await transaction.commit()
    assert calls == []


async def test_a_connection_that_was_cut_raises_what_cut_it_and_calls_nobody(
    database: Database, transaction: Opened
) -> None:
    calls: list[str] = []
    async with database.sessions.begin() as unrelated:
        await after_commit(unrelated, lambda: calls.append("unrelated"))
    await after_commit(transaction, lambda: calls.append("cut"))
    with pytest.raises(DBAPIError) as caught:
        await transaction.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert caught.value.connection_invalidated
    await transaction.rollback()
    assert calls == ["unrelated"]
    await transaction.execute(text("SELECT 1"))
    await transaction.commit()
    assert calls == ["unrelated"]


async def test_a_connection_that_was_cut_in_a_savepoint_raises_what_cut_it(
    transaction: Opened,
) -> None:
    calls: list[str] = []
    await after_commit(transaction, lambda: calls.append("cut"))
    with pytest.raises(DBAPIError) as caught:
        async with transaction.begin_nested():
            await transaction.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert caught.value.connection_invalidated
    await transaction.rollback()
    assert calls == []


async def test_an_abandoned_transaction_calls_nobody_in_the_next(
    database: Database,
) -> None:
    calls: list[str] = []
    async with database.engine.connect() as connection:
        await after_commit(connection, lambda: calls.append("left open"))
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
    async with database.engine.begin() as connection:
        assert await connection.scalar(text("SELECT pg_backend_pid()")) == pid
    assert calls == []


async def test_a_savepoint_takes_with_it_what_was_asked_for_in_it(transaction: Opened) -> None:
    calls: list[str] = []

    async def ask(name: str) -> None:
        await after_commit(transaction, lambda: calls.append(name))

    await transaction.execute(text("SELECT 1"))
    await ask("before")
    async with transaction.begin_nested():
        await ask("released")
        async with transaction.begin_nested() as inner:
            await ask("undone")
            await inner.rollback()
        await ask("released later")
    async with transaction.begin_nested() as outer:
        async with transaction.begin_nested():
            await ask("released into what is undone")
        await outer.rollback()
    await ask("after")
    assert calls == []
    await transaction.commit()
    assert calls == ["before", "released", "released later", "after"]


async def test_a_session_inside_a_transaction_waits_for_the_end_of_that(
    database: Database,
) -> None:
    calls: list[str] = []
    async with database.engine.connect() as connection, connection.begin() as outer:
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            await after_commit(session, lambda: calls.append("called"))
            await session.commit()
        assert calls == []
        await outer.commit()
    assert calls == ["called"]


async def test_a_call_that_fails_does_not_make_the_commit_fail(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def fail() -> None:
        raise RuntimeError("no use")

    async with database.sessions.begin() as session:
        await session.execute(text("CREATE TABLE kept (n int)"))
        await after_commit(session, fail)
        await after_commit(session, lambda: calls.append("called"))
    assert calls == ["called"]
    assert "after_commit_failed" in caplog.text
    async with database.sessions() as session:
        assert await session.scalar(text("SELECT count(*) FROM kept")) == 0


async def test_a_driver_connection_has_no_hook(database: Database) -> None:
    calls: list[str] = []
    connection = await database.connect()
    async with connection.transaction():
        assert not await after_commit(connection, lambda: calls.append("called"))
    await connection.close()
    assert calls == []
