"""Months of the log: made ahead, filled from the default partition, dropped when they are old."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from service import audit
from service.audit.months import drop_months, make_months
from service.audit.repository import newest
from service.db.connection import Link
from service.db.engine import Database
from service.jobs import Registry
from service.jobs.maintenance.maintainer import Maintainer
from service.settings import Settings
from tests.jobs.waiting import until

MONTHS = r"""
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'audit_log'::regclass AND c.relname <> 'audit_log_default' ORDER BY 1"""
WHERE = "SELECT tableoid::regclass::text AS place, count(*) FROM audit_log GROUP BY 1"
OLD = """
INSERT INTO audit_log (at, actor, action, subject_type, outcome)
SELECT now() - make_interval(days => $1::int), 'ann', 'x', 'job', 'done'"""


@pytest.fixture
async def link(database: Database) -> AsyncIterator[Link]:
    link = database.link()
    yield link
    await link.close()


async def months(sql: "asyncpg.Connection[asyncpg.Record]") -> list[str]:
    return [row[0].removeprefix("audit_log_") for row in await sql.fetch(MONTHS)]


async def test_this_month_and_the_next_are_made_once(
    sql: "asyncpg.Connection[asyncpg.Record]", link: Link
) -> None:
    today = datetime.now(UTC)
    following = (today.year, today.month + 1) if today.month < 12 else (today.year + 1, 1)
    for _ in range(2):
        await make_months(link)
        assert await months(sql) == [f"{today:%Y%m}", "{}{:02}".format(*following)]


async def test_what_came_before_its_month_was_made_moves_along(
    sql: "asyncpg.Connection[asyncpg.Record]", link: Link
) -> None:
    for days in (0, 70, 70, 100):
        await sql.execute(OLD, days)
    before = await sql.fetch("SELECT * FROM audit_log ORDER BY id")
    await make_months(link)
    assert await sql.fetchval("SELECT count(*) FROM audit_log_default") == 0
    assert await sql.fetch("SELECT * FROM audit_log ORDER BY id") == before
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await sql.execute("DELETE FROM audit_log_default")


async def test_a_month_is_dropped_when_all_of_it_is_older_than_the_retention(
    sql: "asyncpg.Connection[asyncpg.Record]", link: Link
) -> None:
    for days in (0, 300, 500):
        await sql.execute(OLD, days)
    await make_months(link)
    made = await months(sql)
    await drop_months(link, keep_days=400)
    assert await months(sql) == made[1:]
    assert await sql.fetchval("SELECT count(*) FROM audit_log") == 2
    await drop_months(link, keep_days=30)
    assert await sql.fetchval("SELECT count(*) FROM audit_log") == 1


async def test_a_month_stays_as_long_as_its_last_day_does(
    sql: "asyncpg.Connection[asyncpg.Record]", link: Link
) -> None:
    await sql.execute(OLD, 100)
    await make_months(link)
    first_day = (datetime.now(UTC) - timedelta(days=100)).replace(day=1)
    end = (first_day + timedelta(days=31)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    whole_days = (datetime.now(UTC) - end).days
    await drop_months(link, keep_days=whole_days + 1)
    assert await sql.fetchval("SELECT count(*) FROM audit_log") == 1
    await drop_months(link, keep_days=whole_days)
    assert await sql.fetchval("SELECT count(*) FROM audit_log") == 0


async def test_the_leader_makes_and_drops_months(
    sql: "asyncpg.Connection[asyncpg.Record]",
    database: Database,
    make_settings: Callable[..., Settings],
) -> None:
    for days in (0, 100):
        await sql.execute(OLD, days)
    leader = Maintainer(database, make_settings(audit_retention_days=30), handlers=Registry())
    await leader.do_round()
    await leader.close()
    assert len(await months(sql)) == 2
    assert await sql.fetchval("SELECT count(*) FROM audit_log") == 1


async def test_a_month_that_is_being_read_is_left_to_the_next_round(
    sql: "asyncpg.Connection[asyncpg.Record]", database: Database, link: Link
) -> None:
    await audit.record(sql, None, "x", subject_type="job")
    reader = await database.connect()
    async with reader.transaction():
        assert await reader.fetchval("SELECT count(*) FROM audit_log") == 1
        with pytest.raises(asyncpg.LockNotAvailableError):
            await make_months(link)
        # Nobody waits behind it.
        await audit.record(sql, None, "x", subject_type="job")
    await reader.close()
    await make_months(link)
    assert await sql.fetchval("SELECT count(*) FROM audit_log") == 2
    assert await sql.fetchval("SELECT count(*) FROM audit_log_default") == 0


async def test_an_entry_that_comes_while_its_month_is_made_waits_and_is_written(
    sql: "asyncpg.Connection[asyncpg.Record]", database: Database
) -> None:
    other = await database.connect()
    making = sql.transaction()
    await making.start()
    await sql.execute("SELECT audit_make_month(current_date)")
    writing = asyncio.create_task(audit.record(other, None, "x", subject_type="job"))
    await until(lambda: sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
    await making.commit()
    await writing
    await other.close()
    assert await sql.fetchval("SELECT count(*) FROM audit_log") == 1


@pytest.mark.parametrize("at", ["infinity", "-infinity", "4000-01-01 BC", "99999-01-01"])
async def test_an_entry_of_an_odd_time_keeps_no_month_from_being_made_and_is_read_with_the_others(
    sql: "asyncpg.Connection[asyncpg.Record]", link: Link, database: Database, at: str
) -> None:
    await sql.execute(OLD, 0)
    await sql.execute(
        "INSERT INTO audit_log (at, actor, action, subject_type, outcome)"
        f" VALUES ('{at}', 'ann', 'x', 'job', 'done')"
    )
    await make_months(link)
    assert len(await months(sql)) == 2
    async with database.sessions() as session:
        found = await newest(session, audit.AuditFilters(), limit=10)
    assert [entry.at.year in {1, 9999} for entry in found] == [True, False]
