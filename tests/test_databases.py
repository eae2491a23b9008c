"""A database that is used again is as good as new, or is not used again."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.jobs import enqueue
from service.jobs.maintenance import partitions
from tests import databases
from tests.conftest import Template
from tests.jobs.rows import add
from tests.running import ROOT

LEFT = """
SELECT (SELECT count(*) FROM background_jobs) + (SELECT count(*) FROM job_stats),
  (SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relkind = 'r'
    AND relnamespace = 'finmind_jobs'::regnamespace AND relname <> 'alembic_version'),
  (SELECT count(*) FROM pg_inherits WHERE inhparent = 'jobs_done'::regclass),
  (SELECT count(*) FROM pg_sequences WHERE last_value IS NOT NULL),
  (SELECT COALESCE(sum(n_tup_ins), 0) FROM pg_stat_user_tables
    WHERE relname LIKE 'jobs%' AND relname <> 'job_stats')"""


async def left(session: AsyncSession) -> list[int]:
    async with session.begin():
        return [int(value) for value in (await session.execute(text(LEFT))).one()]


async def test_rows_numbers_partitions_and_counters_are_gone(
    pg_dsn: str, database: Database, session: AsyncSession, template_database: Template
) -> None:
    new = await left(session)
    link = database.link()
    await partitions.make_ahead(link, days=2)
    async with session.begin():
        first = await enqueue(session, "mail")
        await add(session, status="SUCCESS")
        await add(session, status="DEAD_LETTER")
    assert await left(session) != new
    await link.close()
    await session.close()
    await database.close()
    assert await databases.renew(pg_dsn, template_database.fingerprint)
    assert await left(session) == new
    async with session.begin():
        assert (await enqueue(session, "mail")).id == first.id == 1


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more (n int)",
        "DROP INDEX idempotency_keys_created_at",
        "ALTER TABLE jobs_live ALTER COLUMN queue SET DEFAULT 'other'",
        "ALTER TABLE jobs_live SET (fillfactor = 90)",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET jit = off', current_database()); END $$",
        "INSERT INTO jobs_live (job_type) VALUES ('mail'); ANALYZE jobs_live",
        "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER SEQUENCE background_job_ids INCREMENT 7",
        "UPDATE alembic_version SET version_num = 'other'",
    ],
)
async def test_a_database_of_another_shape_is_not_used_again(
    pg_dsn: str, template_database: Template, statement: str
) -> None:
    await databases.execute(pg_dsn, statement)
    assert not await databases.renew(pg_dsn, template_database.fingerprint)


async def test_connections_that_a_test_left_open_are_ended(
    pg_dsn: str, database: Database, template_database: Template
) -> None:
    left_open = await database.connect()
    await left_open.execute("BEGIN; LOCK TABLE jobs_live")
    assert await databases.renew(pg_dsn, template_database.fingerprint)
    assert left_open.is_closed()
    left_open.terminate()


@pytest.mark.whole
def test_a_server_does_not_outlive_tests_that_are_killed() -> None:
    program = (
        "from service.db.embedded import EmbeddedServer\n"
        "from service.testing.server import server_directory\n"
        "with server_directory() as directory:\n"
        "    EmbeddedServer.start(directory); print(directory, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        directory = Path(process.stdout.readline().strip())
        server = psutil.Process(int((directory / "postgres/postmaster.pid").read_text().split()[0]))
        process.kill()
    _, alive = psutil.wait_procs([server], timeout=20)
    assert alive == []
