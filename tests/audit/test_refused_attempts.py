"""Refused attempts are noted once a minute for a subject and a route, whatever happens."""

import asyncio
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest
from prometheus_client import REGISTRY

from service.audit import Actor
from service.audit.refused_attempts import AGAIN_SECONDS, MAX_REMEMBERED, RefusedAttempts
from service.db.engine import Database
from service.settings import Settings

Make = Callable[..., RefusedAttempts]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def make(database: Database, clock: Clock) -> AsyncIterator[Make]:
    made: list[RefusedAttempts] = []

    def make(of: Database = database) -> RefusedAttempts:
        made.append(RefusedAttempts(of, clock))
        return made[-1]

    yield make
    for attempts in made:
        await attempts.close()


async def refuse(attempts: RefusedAttempts, who: str = "eve", route: str = "POST /x") -> None:
    await attempts.note(Actor(who), route=route, path="/x", permission="admin:operate", detail="no")


async def noted(sql: "asyncpg.Connection[asyncpg.Record]") -> int:
    count: int = await sql.fetchval("SELECT count(*) FROM audit_log")
    return count


def unrecorded(reason: str) -> float:
    name = "finmind_audit_refusals_unrecorded_total"
    return REGISTRY.get_sample_value(name, {"reason": reason}) or 0.0


async def test_a_flood_is_one_entry_for_each_subject_and_route(
    make: Make, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    processes = [make(), make(), make()]
    await asyncio.gather(
        *(
            refuse(process, who)
            for _ in range(50)
            for process in processes
            for who in ("eve", "mal")
        )
    )
    await refuse(processes[0], route="DELETE /x")
    assert await noted(sql) == 3
    row = await sql.fetchrow("SELECT * FROM audit_log WHERE actor = 'eve' ORDER BY id LIMIT 1")
    assert row is not None
    assert (row["action"], row["outcome"]) == ("access.refused", "refused")
    assert (row["subject_type"], row["subject_id"]) == ("route", "POST /x")
    assert row["after"] == '{"path": "/x", "detail": "no", "permission": "admin:operate"}'


async def test_an_attempt_after_a_minute_is_noted_again(
    make: Make, sql: "asyncpg.Connection[asyncpg.Record]", clock: Clock
) -> None:
    attempts = make()
    await refuse(attempts)
    # The database has a clock of its own, which is not moved here: the entry is made older.
    await sql.execute("ALTER TABLE audit_log_default DISABLE TRIGGER append_only")
    await sql.execute("UPDATE audit_log_default SET at = at - interval '61 seconds'")
    await sql.execute("ALTER TABLE audit_log_default ENABLE ALWAYS TRIGGER append_only")
    clock.now += AGAIN_SECONDS - 1
    await refuse(attempts)
    assert await noted(sql) == 1
    clock.now += 2
    await refuse(attempts)
    assert await noted(sql) == 2


async def test_many_subjects_fill_the_table_no_faster(
    make: Make, sql: "asyncpg.Connection[asyncpg.Record]", clock: Clock
) -> None:
    attempts = make()
    before = unrecorded("limited")
    for number in range(MAX_REMEMBERED + 7):
        await refuse(attempts, f"eve {number}")
    assert await noted(sql) == MAX_REMEMBERED
    assert unrecorded("limited") == before + 7
    clock.now += AGAIN_SECONDS + 1
    await refuse(attempts, "mal")
    assert await noted(sql) == MAX_REMEMBERED + 1


async def test_a_database_that_is_away_costs_one_try_and_no_error(
    make: Make, make_settings: Callable[..., Settings], clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    attempts = make(Database("postgresql://u@127.0.0.1:1/x", make_settings()))
    before = unrecorded("failed")
    for who in ("eve", "mal"):
        await refuse(attempts, who)
    assert unrecorded("failed") == before + 2
    lines = [record for record in caplog.records if "refusal_not_recorded" in str(record.msg)]
    assert len(lines) == 1
