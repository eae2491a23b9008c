"""Databases for tests: each test has one to itself, as if it had just been made.

To copy a database costs a fifth of a second, nearly all of it for its 300 files; to empty the few
tables that a test wrote to costs a tenth of that. So a database is used again if all that a test can
have left behind is known to be undone, and made anew otherwise.
"""

import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

SPARE: list[str] = []
"""Databases that are as good as new."""

_numbers = itertools.count()

END_OTHERS = """
SELECT count(*) FILTER (WHERE NOT pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()"""

PARTITIONS = r"""
SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^(jobs_done_\d{8}|audit_log_\d{6})$'"""

TOUCHED = """
SELECT relname FROM pg_class WHERE relnamespace = 'finmind_jobs'::regnamespace AND relkind = 'r'
  AND (pg_relation_size(oid) > 0 OR reltuples <> -1) AND relname <> 'alembic_version'"""

ALLOW_TRUNCATE = "ALTER TABLE audit_log_default DISABLE TRIGGER append_only"
REFUSE_TRUNCATE = "ALTER TABLE audit_log_default ENABLE ALWAYS TRIGGER append_only"

SEQUENCES = """
SELECT setval(seqrelid, seqstart, false) FROM pg_sequence
WHERE pg_sequence_last_value(seqrelid) IS NOT NULL"""

FINGERPRINT = """
SELECT md5(string_agg(line, E'\\n' ORDER BY line)) FROM (
  SELECT concat_ws(' ', 'relation', c.relnamespace::regnamespace, c.relname, c.relkind,
    c.reloptions, c.relrowsecurity, c.relacl, pg_get_expr(c.relpartbound, c.oid),
    CASE WHEN c.relkind IN ('i', 'I') THEN pg_get_indexdef(c.oid) END) AS line
  FROM pg_class c
  WHERE c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace,
    'pg_toast'::regnamespace)
  UNION ALL
  SELECT concat_ws(' ', 'column', a.attrelid::regclass, a.attname, a.atttypid::regtype, a.attnotnull,
    a.attstorage, a.attstattarget, a.attoptions, pg_get_expr(d.adbin, d.adrelid))
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  WHERE c.relnamespace = 'finmind_jobs'::regnamespace AND a.attnum > 0
  UNION ALL
  SELECT concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid))
  FROM pg_constraint WHERE connamespace = 'finmind_jobs'::regnamespace
  UNION ALL
  SELECT concat_ws(' ', 'trigger', tgrelid::regclass, tgname, tgenabled, pg_get_triggerdef(oid))
  FROM pg_trigger
  UNION ALL
  SELECT concat_ws(' ', 'function', oid::regprocedure, md5(prosrc))
  FROM pg_proc WHERE pronamespace = 'finmind_jobs'::regnamespace
  UNION ALL
  SELECT concat_ws(' ', 'sequence', seqrelid::regclass, seqstart, seqincrement, seqcache)
  FROM pg_sequence
  UNION ALL
  SELECT concat_ws(' ', 'setting', setconfig) FROM pg_db_role_setting
  WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  UNION ALL
  SELECT concat_ws(' ', 'extension', extname) FROM pg_extension
  UNION ALL
  SELECT concat_ws(' ', 'statistics', starelid::regclass) FROM pg_statistic s
    JOIN pg_class c ON c.oid = s.starelid WHERE c.relnamespace = 'finmind_jobs'::regnamespace
  UNION ALL
  SELECT concat_ws(' ', 'revision', version_num) FROM alembic_version) lines"""
"""Of all that a test can change, save what rows there are: schema, settings, statistics."""


def new_name() -> str:
    """A name that no other database has."""
    return f"finmind_test_{os.getpid()}_{next(_numbers)}"


def search_path(name: str) -> str:
    """Tests name tables without a schema; that the service does not is a test of its own."""
    return f"ALTER DATABASE {name} SET search_path = finmind_jobs, public"


def with_database(dsn: str, name: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


async def execute(dsn: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own."""
    connection = await connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def connect(dsn: str) -> Any:
    return await asyncpg.connect(dsn, timeout=10, command_timeout=30)


@asynccontextmanager
async def client_role(dsn: str) -> AsyncIterator[tuple[str, str]]:
    """A role with the rights of `finmind_client`, with none of our schemas in its search path, and its DSN."""
    name = f"finmind_test_{os.getpid()}_client_{next(_numbers)}"
    await execute(
        dsn,
        f"CREATE ROLE {name} LOGIN",
        f"ALTER ROLE {name} SET search_path = public",
        f"GRANT USAGE ON SCHEMA finmind_jobs TO {name}",
        f"GRANT EXECUTE ON FUNCTION finmind_jobs.enqueue_job, finmind_jobs.enqueue_jobs TO {name}",
    )
    parts = urlsplit(dsn)
    netloc = f"{name}@{parts.netloc.rpartition('@')[2]}"
    yield name, urlunsplit(parts._replace(netloc=netloc))
    await execute(dsn, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


async def fingerprint(dsn: str) -> str:
    """What `renew` compares a used database with."""
    connection = await connect(dsn)
    try:
        print_: str = await connection.fetchval(FINGERPRINT)
        return print_
    finally:
        await connection.close()


async def renew(dsn: str, expected: str) -> bool:
    """Undo what a test did; False where that cannot be known to be all of it."""
    connection = await connect(dsn)
    try:
        if await connection.fetchval(END_OTHERS):
            return False
        made = [row[0] for row in await connection.fetch(PARTITIONS)]
        if made:
            await connection.execute(f"DROP TABLE {', '.join(made)}")
        if await connection.fetchval(FINGERPRINT) != expected:
            return False
        touched = [row[0] for row in await connection.fetch(TOUCHED)]
        if touched:
            await connection.execute(ALLOW_TRUNCATE)
            await connection.execute(f"TRUNCATE {', '.join(touched)}")
            await connection.execute(REFUSE_TRUNCATE)
        await connection.execute(SEQUENCES)
        await connection.execute("SELECT pg_stat_reset()")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return False
    finally:
        await connection.close(timeout=5)
    return True
