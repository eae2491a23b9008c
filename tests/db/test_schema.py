"""A schema of our own: under any search_path, beside any application, and where it was before."""

import ast
import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from service.db import migrate, schema
from service.db.engine import Database
from service.db.migrate import upgrade
from service.db.roles import FUNCTIONS, RUNTIME, SEQUENCES
from service.db.session import _fetch
from service.errors import ConfigurationError
from service.jobs import (
    BackgroundJob,
    NewJob,
    Registry,
    Worker,
    cancel_job,
    enqueue,
    enqueue_many,
    get_job,
    get_job_stats,
    process_due_jobs,
)
from service.jobs.notify.publisher import publisher_for
from service.settings import Settings
from tests import databases
from tests.jobs.waiting import until

pytestmark = pytest.mark.whole

ROOT = Path(__file__).parents[2]
APPLICATION = """
CREATE TABLE public.alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO public.alembic_version VALUES ('0006');
CREATE TABLE public.api_keys (id int); CREATE TABLE public.reminders (id int);
CREATE TABLE public.background_jobs (id int); CREATE TABLE public.jobs_live (id int);"""
"""Of an application whose names, and whose revision, happen to be ours."""


class Made(Protocol):
    async def __call__(self, *, migrated: bool = True, **settings: Any) -> Database: ...


@pytest.fixture
async def made(empty_dsn: str, make_settings: Callable[..., Settings]) -> AsyncIterator[Made]:
    """Makes Databases of one database in which nobody sets a search_path."""
    name = empty_dsn.partition("?")[0].rpartition("/")[2]
    await databases.execute(empty_dsn, f"ALTER DATABASE {name} RESET search_path")
    opened: list[Database] = []

    async def make(*, migrated: bool = True, **options: Any) -> Database:
        settings = make_settings(**options)
        database = Database(empty_dsn, settings)
        opened.append(database)
        if migrated:
            await upgrade(database, settings)
        return database

    yield make
    for database in opened:
        await database.close()


@pytest.fixture
async def in_public(made: Made, monkeypatch: pytest.MonkeyPatch) -> Database:
    """An installation in `public`, as versions before DATABASE_SCHEMA made it."""
    return await made(database_schema="public")


async def tables(dsn: str) -> dict[str, list[str]]:
    """The names of the tables, by schema."""
    connection = await databases.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT schemaname, array_agg(tablename::text ORDER BY tablename) FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema') GROUP BY 1"
        )
        return dict(rows)
    finally:
        await connection.close()


# -- which schema -------------------------------------------------------------------------------


async def test_a_new_installation_is_in_a_schema_of_its_own(made: Made, empty_dsn: str) -> None:
    database = await made()
    found = await tables(empty_dsn)
    assert found.keys() == {"finmind_jobs"}
    assert {"background_jobs", "api_keys", "alembic_version"} <= set(found["finmind_jobs"])
    assert database.schema == "finmind_jobs"


@pytest.mark.parametrize("name", ["public", "other", "user"])
async def test_it_is_in_the_schema_that_is_asked_for(made: Made, empty_dsn: str, name: str) -> None:
    database = await made(database_schema=name)
    assert (await tables(empty_dsn)).keys() == {name}
    assert await migrate.current_revision(database) == migrate.head_revision()


async def test_one_in_public_is_found_and_stays_there(
    in_public: Database, made: Made, empty_dsn: str, settings: Settings
) -> None:
    database = await made()
    assert database.schema == "public"
    assert (await tables(empty_dsn)).keys() == {"public"}
    await migrate.downgrade(database, settings, "0005")
    await upgrade(await made(migrated=False), settings)
    assert (await tables(empty_dsn)).keys() == {"public"}


async def test_an_applications_tables_of_the_same_names_are_left_alone(
    made: Made, empty_dsn: str
) -> None:
    await databases.execute(empty_dsn, APPLICATION)
    before = (await tables(empty_dsn))["public"]
    database = await made()
    assert database.schema == "finmind_jobs"
    assert (await tables(empty_dsn))["public"] == before
    async with database.sessions.begin() as session:
        await enqueue(session, "mail")


ENVIRONMENT = """
import asyncio, os
from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine

def run(connection):
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()

async def main():
    engine = create_async_engine(os.environ["URL"])
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()

asyncio.run(main())
"""
REVISION = """
from alembic import op
revision, down_revision = {revision!r}, {before!r}
def upgrade():
    op.execute("CREATE TABLE {table} (id int)")
def downgrade():
    op.execute("DROP TABLE {table}")
"""


@pytest.mark.parametrize("first", ["service", "application"])
async def test_an_application_with_migrations_of_its_own_upgrades_beside_us(
    made: Made, empty_dsn: str, tmp_path: Path, settings: Settings, first: str
) -> None:
    versions = tmp_path / "alembic" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "alembic.ini").write_text(
        "[alembic]\nscript_location = %(here)s/alembic\npath_separator = os\n"
    )
    (versions.parent / "env.py").write_text(ENVIRONMENT)
    # One of the revisions is called as one of ours.
    chain = [("a1", None, "api_keys"), ("0006", "a1", "reminders"), ("b2", "0006", "invoices")]
    for revision, before, table in chain:
        text = REVISION.format(revision=revision, before=before, table=table)
        (versions / f"{revision}_.py").write_text(text)

    async def migrate_theirs(*arguments: str) -> None:
        command = [sys.executable, "-m", "alembic", *arguments]
        environment = os.environ | {"URL": empty_dsn.replace("postgresql:", "postgresql+asyncpg:")}
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    database = await made(migrated=first == "service")
    await migrate_theirs("upgrade", "0006")
    await upgrade(database, settings)
    await migrate_theirs("upgrade", "head")
    await migrate.downgrade(database, settings, "0001")
    await upgrade(database, settings)
    expected = ["alembic_version", "api_keys", "invoices", "reminders"]
    assert (await tables(empty_dsn))["public"] == expected
    await migrate_theirs("downgrade", "base")
    async with database.sessions.begin() as session:
        await enqueue(session, "mail")


async def test_a_role_that_may_not_create_the_schema_gets_the_way_out(
    made: Made, empty_dsn: str
) -> None:
    database = await made(migrated=False)
    name = f"finmind_test_{os.getpid()}_nobody"
    await databases.execute(empty_dsn, f"CREATE ROLE {name} LOGIN")
    try:
        parts = urlsplit(empty_dsn)
        as_nobody = urlunsplit(parts._replace(netloc=f"{name}@{parts.netloc.rpartition('@')[2]}"))
        database = Database(as_nobody, database._settings)
        with pytest.raises(ConfigurationError, match="`python -m service roles`"):
            await upgrade(database, database._settings)
        await database.close()
    finally:
        await databases.execute(empty_dsn, f"DROP ROLE {name}")


async def test_a_schema_with_another_applications_versions_is_refused(
    made: Made, empty_dsn: str
) -> None:
    await databases.execute(empty_dsn, APPLICATION)
    await databases.execute(empty_dsn, "DROP TABLE public.jobs_live")
    with pytest.raises(ConfigurationError, match="another application's alembic_version"):
        await made(database_schema="public")


async def test_the_sql_that_is_printed_makes_the_same(made: Made, empty_dsn: str) -> None:
    connection = await databases.connect(empty_dsn)
    sql = migrate.render_sql(schema="other")
    for place, part in enumerate(re.split(r"^(?:BEGIN|COMMIT);$", sql, flags=re.MULTILINE)):
        # Outside of a transaction each statement stands alone, as some must.
        for statement in [part] if place % 2 else part.split(";\n\n"):
            if re.sub(r"--.*", "", statement).strip():
                await connection.execute(statement)
    await connection.close()
    assert (await tables(empty_dsn)).keys() == {"other"}
    database = await made(migrated=False, database_schema="other")
    assert await migrate.current_revision(database) == migrate.head_revision()


@pytest.mark.parametrize("name", ["", "A", "a b", 'a"b', "a;drop", "ä", "1a", "a" * 64])
def test_a_name_that_would_be_more_than_a_name_is_refused(
    make_settings: Callable[..., Settings], name: str
) -> None:
    with pytest.raises(ValidationError, match="database_schema"):
        make_settings(database_schema=name)


# -- enqueueing in an application's transaction ---------------------------------------------------

PATHS = ['""', '"$user", public', "theirs, public", "pg_catalog", "pg_temp"]
KINDS = ["asyncpg", "pool", "AsyncConnection", "AsyncSession"]


@asynccontextmanager
async def application(dsn: str, kind: str, path: str) -> AsyncIterator[Any]:
    """A transaction of an application that knows nothing of our schema."""
    options = {"search_path": path}
    if kind == "asyncpg":
        connection = await asyncpg.connect(dsn, server_settings=options)
        async with connection.transaction():
            yield connection
        await connection.close()
        return
    if kind == "pool":
        async with (
            asyncpg.create_pool(dsn, min_size=1, max_size=1, server_settings=options) as pool,
            pool.acquire() as lent,
            lent.transaction(),
        ):
            yield lent
        return
    engine = engine_on(dsn, path)
    if kind == "AsyncConnection":
        async with engine.begin() as begun:
            yield begun
    else:
        async with AsyncSession(engine) as session, session.begin():
            yield session
    await close(engine)


async def close(engine: AsyncEngine) -> None:
    await publisher_for(engine).close()  # it may still be telling workers
    await engine.dispose()


def engine_on(dsn: str, path: str) -> AsyncEngine:
    async def connect(**_: Any) -> Any:
        return await asyncpg.connect(dsn, server_settings={"search_path": path})

    return create_async_engine("postgresql+asyncpg://", connect_args={"async_creator_fn": connect})


@pytest.mark.parametrize("where", ["finmind_jobs", "public"])
@pytest.mark.parametrize("kind", KINDS)
async def test_enqueue_works_under_any_search_path_of_the_caller(
    made: Made, empty_dsn: str, kind: str, where: str
) -> None:
    database = await made(database_schema=where)
    await databases.execute(
        empty_dsn, "CREATE SCHEMA theirs; CREATE TABLE theirs.jobs_live (id int)"
    )
    for path in PATHS:
        async with application(empty_dsn, kind, path) as session:
            await enqueue(session, "mail", unique_key=path)
            again = await enqueue(session, "mail", unique_key=path)
            assert not again.created
            assert await enqueue_many(session, [NewJob("mail")] * 3) == 3
    async with database.sessions() as session:
        assert (await get_job_stats(session)).total == 4 * len(PATHS)


@pytest.mark.parametrize("where", ["finmind_jobs", "public"])
async def test_an_applications_session_reads_and_cancels_jobs_too(
    made: Made, empty_dsn: str, where: str
) -> None:
    await made(database_schema=where)
    engine = engine_on(empty_dsn, '""')
    async with AsyncSession(engine) as session, session.begin():
        job = await enqueue(session, "mail")
    # Another engine: one that was not told by an enqueue.
    other = engine_on(empty_dsn, '""')
    async with AsyncSession(other) as session, session.begin():
        assert (await get_job(session, job.id)).status == "PENDING"
        assert (await get_job_stats(session)).total == 1
        assert (await cancel_job(session, job.id)).status == "CANCELLED"
    await close(other)
    other = engine_on(empty_dsn, '""')
    async with AsyncSession(other) as session:
        connection = await session.connection()
        await connection.execution_options(schema_translate_map={"finmind_jobs": where})
        query = select(BackgroundJob.status).where(BackgroundJob.id == job.id)
        assert (await session.execute(query)).scalar_one() == "CANCELLED"
    await close(engine)
    await close(other)


@pytest.mark.parametrize("kind", KINDS)
async def test_missing_tables_are_one_sentence_and_keep_the_transaction(
    empty_dsn: str, kind: str
) -> None:
    async with application(empty_dsn, kind, "public") as session:
        with pytest.raises(ConfigurationError, match="has no job tables"):
            await enqueue(session, "mail")
        inside = await session.connection() if kind == "AsyncSession" else session
        await _fetch(inside, "SELECT 1")


async def test_the_schema_is_looked_for_once(
    made: Made, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made()
    looked = []
    find = schema.find

    async def counted(fetch: Any) -> str | None:
        looked.append(1)
        return await find(fetch)

    monkeypatch.setattr(schema, "find", counted)
    engine = engine_on(empty_dsn, "public")
    for _ in range(3):
        async with AsyncSession(engine) as session, session.begin():
            await enqueue(session, "mail")
            await enqueue(session, "mail")
    await engine.dispose()
    assert len(looked) == 1


async def test_an_applications_environment_names_the_schema(
    made: Made, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made()
    other = await made(database_schema="other")
    monkeypatch.setenv("DATABASE_SCHEMA", "other")
    async with application(empty_dsn, "AsyncSession", "public") as session:
        await enqueue(session, "mail")
    async with other.sessions() as session:
        assert (await get_job_stats(session)).total == 1
    monkeypatch.setenv("DATABASE_SCHEMA", 'other"; DROP')
    async with application(empty_dsn, "asyncpg", "public") as session:
        with pytest.raises(ConfigurationError, match="not a valid schema name"):
            await enqueue(session, "mail")


# -- two installations in one database ------------------------------------------------------------


def noting(numbers: list[int]) -> Callable[[Any], Awaitable[None]]:
    async def note(payload: Any) -> None:
        numbers.append(payload["n"])

    return note


async def test_two_installations_in_one_database_do_not_meet(
    made: Made, empty_dsn: str, make_settings: Callable[..., Settings]
) -> None:
    ran: dict[str, list[int]] = {}
    workers: list[Worker] = []
    try:
        for number, name in enumerate(("finmind_jobs", "public", "other")):
            database = await made(database_schema=name)
            handlers = Registry()
            handlers.handler("note")(noting(ran.setdefault(name, [])))
            settings = make_settings(database_schema=name, maintenance_seconds=0.1)
            workers.append(Worker(database, settings, handlers=handlers))
            await workers[-1].start()
            async with database.sessions.begin() as session:
                await enqueue(session, "note", {"n": number})

        async def all_lead_and_ran() -> bool:
            leading = [worker._maintenance.leader.since is not None for worker in workers]
            return all(leading) and sum(map(len, ran.values())) == 3

        await until(all_lead_and_ran)
    finally:
        for worker in workers:
            await worker.stop()
    assert ran == {"finmind_jobs": [0], "public": [1], "other": [2]}


async def test_an_older_process_that_leads_in_public_is_the_only_leader(
    in_public: Database, make_settings: Callable[..., Settings]
) -> None:
    earlier = await in_public.connect()
    settings = make_settings(maintenance_seconds=0.05)
    worker = Worker(Database(in_public.dsn, settings), settings, handlers=Registry())
    async with earlier.transaction():
        lock = "SELECT pg_try_advisory_xact_lock(hashtext('finmind-jobs.maintenance'))"
        assert await earlier.fetchval(lock)
        assert not await worker._maintenance.leader.lead()
    assert await worker._maintenance.leader.lead()
    await worker._maintenance.close()
    await earlier.close()


async def test_a_pass_over_due_jobs_finds_the_schema(
    in_public: Database, empty_dsn: str, make_settings: Callable[..., Settings]
) -> None:
    handlers = Registry()

    @handlers.handler("mail")
    async def mail(_: Any) -> None:
        pass

    async with in_public.sessions.begin() as session:
        await enqueue(session, "mail")
    summary = await process_due_jobs(empty_dsn, settings=make_settings(), handlers=handlers)
    assert summary.succeeded == 1


# -- statements -----------------------------------------------------------------------------------

# As the roles have them: a test there asks the database whether they are all.
TABLES = "|".join([*RUNTIME, *SEQUENCES, *(name.partition("(")[0] for name in FUNCTIONS)])
UNQUALIFIED = re.compile(
    rf"\b(?:FROM|JOIN|INTO|(?<!DO )UPDATE|USING|TABLE|nextval\('|SELECT) ?(?:ONLY )?(?:{TABLES})\b"
    rf"(?!\.)|'(?:{TABLES})'::reg"
)


def test_no_statement_of_the_service_leaves_a_table_to_the_search_path() -> None:
    found = [
        f"{path.name}:{node.lineno}: {match[0]}"
        for path in sorted((ROOT / "service").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for match in UNQUALIFIED.finditer(node.value)
    ]
    assert found == []


def test_only_the_prefix_is_rendered() -> None:
    statement = "SELECT 'my_finmind_jobs.x', 'finmind_jobs' FROM finmind_jobs.jobs_live"
    assert schema.render(statement, "finmind_jobs") is statement
    rendered = """SELECT 'my_finmind_jobs.x', 'finmind_jobs' FROM "public".jobs_live"""
    assert schema.render(statement, "public") == rendered
    assert schema.render(statement, "public") is schema.render(statement, "public")
