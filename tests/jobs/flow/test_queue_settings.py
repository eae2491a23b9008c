"""What workers know of the limits that operators set for queues."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.jobs.core.queue_limits import QueueLimits, Rate
from service.jobs.flow.queue_settings import QueueSettings
from service.jobs.queues import configure_queue, pause_queue, resume_queue
from tests.jobs.waiting import until

WAITING = "SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


async def test_every_limit_of_a_queue_is_read(database: Database, sql: Any) -> None:
    settings, link = QueueSettings(), database.link()
    await sql.execute(
        "INSERT INTO queues (name, max_running, max_running_per_key, rate_limit, rate_seconds,"
        " rate_burst, key_rate_limit, key_rate_seconds, key_rate_burst, weight, key_fairness)"
        " VALUES ('all', 40, 3, 100, 60, 10, 5, 1.5, 2, 5, true);"
        "INSERT INTO queues (name, paused_at) VALUES ('paused', now());"
        "INSERT INTO queues (name, max_running_per_key) VALUES ('keyed', 0)"
    )
    await settings.renew(link)
    await link.close()
    assert settings.settings_of("all") == QueueLimits(
        40, 3, Rate(100, 60, 10), Rate(5, 1.5, 2), 5, True
    )
    assert (settings.settings_of("paused"), settings.settings_of("none")) == (None, None)
    assert settings.limited == {"all", "keyed"}
    assert settings.rates.keys() == settings.rates_per_key.keys() == {"all"}
    assert settings.weights == {"all": 5}
    assert settings.fair == {"all"}
    assert settings.paused == {"paused"}


async def test_a_queue_that_is_resumed_keeps_its_limits(session: AsyncSession, sql: Any) -> None:
    await sql.execute("INSERT INTO queues (name, max_running) VALUES ('q', 3)")
    await pause_queue(session, "q")
    await pause_queue(session, "none")
    await resume_queue(session, "q")
    await resume_queue(session, "none")
    await session.commit()
    assert await sql.fetch("SELECT name, paused_at, max_running FROM queues") == [("q", None, 3)]


@pytest.mark.parametrize("row", ["", "INSERT INTO queues (name, weight) VALUES ('q', 2)"])
async def test_two_changes_at_once_lose_neither(database: Database, sql: Any, row: str) -> None:
    """The row is there or not; a third change deletes it while the others wait."""
    if row:
        await sql.execute(row)

    async def change(**limits: Any) -> None:
        async with database.sessions.begin() as session:
            await configure_queue(session, "q", **limits)

    async with database.sessions.begin() as session:
        await configure_queue(session, "q", weight=None)
        async with asyncio.TaskGroup() as group:
            group.create_task(change(max_running=4))
            group.create_task(change(max_running_per_key=3))
            await until(lambda: sql.fetchval(WAITING))
            await session.commit()
    assert await sql.fetch("SELECT max_running, max_running_per_key, weight FROM queues") == [
        (4, 3, None)
    ]
