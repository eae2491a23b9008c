"""What an entry holds, and that nothing changes it."""

import json
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.audit import Actor, AuditFilters, Outcome
from service.audit.bounded import KEPT_CHARACTERS, MAX_DOCUMENT_CHARACTERS, bounded_json
from service.audit.repository import newest
from service.db.engine import Database
from service.jobs import cancel_job, enqueue, get_job
from tests import databases

ANN = Actor("ann", "request-1", "10.0.0.7")
NONE = AuditFilters()


async def test_an_entry_says_who_did_what_to_what_and_why(session: AsyncSession) -> None:
    async with session.begin():
        await audit.record(
            session, ANN, "job.move", subject_type="job", subject_id="7", filter={"queue": "a"},
            before={"queue": "a"}, after={"queue": "b"}, reason="a is full",
        )  # fmt: skip
        (entry,) = await newest(session, NONE, limit=9)
        now = datetime.now(UTC)
    assert abs((now - entry.at).total_seconds()) < 60
    assert (entry.actor, entry.request_id, entry.address) == ("ann", "request-1", "10.0.0.7")
    assert (entry.action, entry.subject_type, entry.subject_id) == ("job.move", "job", "7")
    assert (entry.filter, entry.before, entry.after) == (
        {"queue": "a"}, {"queue": "a"}, {"queue": "b"},
    )  # fmt: skip
    assert (entry.reason, entry.outcome) == ("a is full", Outcome.DONE)


async def test_python_code_that_names_nobody_stands_as_python(session: AsyncSession) -> None:
    async with session.begin():
        job = await enqueue(session, "mail")
        await cancel_job(session, job.id)
        (entry,) = await newest(session, NONE, limit=9)
    assert (entry.actor, entry.action, entry.subject_id) == ("python", "job.cancel", str(job.id))


async def test_an_entry_is_written_on_a_plain_connection_too(
    sql: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    await audit.record(sql, ANN, "api_key.create", subject_type="api_key", after={"name": "k"})
    assert await sql.fetchval("SELECT after ->> 'name' FROM audit_log") == "k"


async def test_a_change_that_is_rolled_back_leaves_no_entry(
    session: AsyncSession, database: Database
) -> None:
    async with session.begin():
        job = await enqueue(session, "mail")
    async with session.begin() as transaction:
        await cancel_job(session, job.id, actor=ANN)
        await transaction.rollback()
    async with session.begin():
        assert (await get_job(session, job.id)).status == "PENDING"
        assert await newest(session, NONE, limit=9) == []


CHANGES = [
    "UPDATE {} SET actor = 'somebody else'",
    "UPDATE {} SET actor = 'somebody else' WHERE false",
    "DELETE FROM {}",
    "TRUNCATE {}",
    "INSERT INTO {} SELECT * FROM audit_log ON CONFLICT (id, at) DO UPDATE SET actor = 'x'",
]


@pytest.mark.parametrize("table", ["audit_log", "audit_log_default", "month"])
@pytest.mark.parametrize("change", CHANGES)
async def test_nobody_changes_an_entry_not_even_the_owner(
    pg_dsn: str, sql: "asyncpg.Connection[asyncpg.Record]", change: str, table: str
) -> None:
    if table == "month":
        await sql.execute("SELECT audit_make_month(current_date)")
        table = f"audit_log_{datetime.now(UTC):%Y%m}"
    await audit.record(sql, ANN, "job.retry", subject_type="job", subject_id="7")
    superuser = await databases.connect(pg_dsn)
    try:
        for role in ("origin", "replica"):
            await superuser.execute(f"SET session_replication_role = {role}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                await superuser.execute(change.format(table))
    finally:
        await superuser.close()
    assert await sql.fetchval("SELECT actor FROM audit_log") == "ann"


VALUES: dict[str, Any] = {
    "a NUL": {"text": "a\x00b", "\x00": 1, "literal": "\\u0000"},
    "half a surrogate": {"text": "\ud800"},
    "not a number": {"n": float("nan")},
    "too many digits": {"n": 10**5000},
    "a time": {"at": datetime(2026, 3, 1, tzinfo=UTC)},
    "a set": {"queues": frozenset({"b", "a"})},
    "deep": {"deep": json.loads("[" * 900 + "]" * 900)},
    "long": {"long": "x" * 100_000, "short": 1},
    "many": {f"field {n}": "x" * 5_000 for n in range(50)},
    "wide": {"n": ["ä" * 7_000]},
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
async def test_no_value_fails_the_change_that_it_records(
    session: AsyncSession, value: dict[str, Any]
) -> None:
    async with session.begin():
        await audit.record(
            session, Actor("a\x00" * 500, "r\ud800", "x" * 999), "x", subject_type="job",
            subject_id="\x00" * 999, filter=value, before=value, after=value, reason="\x00" * 9999,
        )  # fmt: skip
        (entry,) = await newest(session, NONE, limit=9)
    assert isinstance(entry.before, dict)
    assert len(json.dumps(entry.before, ensure_ascii=False)) <= MAX_DOCUMENT_CHARACTERS * 1.1


def test_what_is_too_long_is_cut_with_a_mark_and_the_rest_stays() -> None:
    text = bounded_json({"payload": "x" * 10_000, "queue": "mail"})
    assert text is not None
    document = json.loads(text)
    assert document["queue"] == "mail"
    assert document["payload"]["$characters"] == 10_002
    assert len(document["payload"]["$cut"]) == KEPT_CHARACTERS
    assert (
        bounded_json({"n": 10**5000})
        == '{"n": {"$cut": "not shown: ValueError", "$characters": null}}'
    )
