import asyncio
from collections.abc import Callable

import asyncpg
import pytest

from service.db.engine import Database
from service.observability.metrics import DATABASE_ERRORS_TOTAL, WORKER_RESTARTS
from service.reminders import repository
from service.reminders.loop import ReminderLoop
from service.reminders.scheduling import Scan
from service.settings import Settings

from .conftest import AddReminder, ReadReminder, eventually

Make = Callable[..., Settings]


def scan_errors() -> float:
    return float(DATABASE_ERRORS_TOTAL.labels("reminder_scan")._value.get())


async def test_a_due_reminder_gets_its_job_without_anybody_asking(
    database: Database, make_settings: Make, add: AddReminder, read: ReadReminder
) -> None:
    loop = ReminderLoop(database, make_settings(reminder_scan_seconds=0.02))
    await loop.start()
    try:
        first = await add()

        async def queued() -> bool:
            return (await read(first.id)).status == "queued"

        await eventually(queued)
        assert loop._loop.alive
    finally:
        await loop.stop()
    assert not loop._loop.alive


async def test_three_loops_at_once_give_each_reminder_one_job(
    pg_dsn: str, make_settings: Make, add: AddReminder, database: Database
) -> None:
    settings = make_settings(reminder_scan_seconds=0.01, database_pool_size=2)
    reminders = [await add() for _ in range(40)]
    databases = [Database(pg_dsn, settings) for _ in range(3)]
    loops = [ReminderLoop(one, settings) for one in databases]

    async def all_queued() -> bool:
        async with database.sessions() as session:
            return await repository.count_awaiting_delivery(session, 1000) == len(reminders)

    try:
        for loop in loops:
            await loop.start()
        await eventually(all_queued)
    finally:
        for loop, one in zip(loops, databases, strict=True):
            await loop.stop()
            await one.close()
    connection = await database.connect()
    try:
        jobs = await connection.fetchval("SELECT count(*) FROM background_jobs")
    finally:
        await connection.close()
    assert jobs == len(reminders)


async def test_a_lost_database_is_survived_counted_and_made_up_for(
    database: Database, make_settings: Make, add: AddReminder, read: ReadReminder
) -> None:
    loop = ReminderLoop(database, make_settings(reminder_scan_seconds=0.02))
    before = scan_errors()
    hidden = await database.connect()
    try:
        await hidden.execute("ALTER TABLE reminders RENAME TO hidden")
        await loop.start()

        async def failed_twice() -> bool:
            return scan_errors() >= before + 2

        await eventually(failed_twice)
        assert loop._loop.alive
        await hidden.execute("ALTER TABLE hidden RENAME TO reminders")
    finally:
        await hidden.close()
    reminder = await add()

    async def queued() -> bool:
        return (await read(reminder.id)).status == "queued"

    try:
        await eventually(queued)
    finally:
        await loop.stop()


async def test_connections_cut_by_the_server_are_survived(
    database: Database, make_settings: Make, add: AddReminder, read: ReadReminder
) -> None:
    loop = ReminderLoop(database, make_settings(reminder_scan_seconds=0.02))
    await loop.start()
    try:
        first = await add()

        async def queued() -> bool:
            try:
                return (await read(first.id)).status == "queued"
            except Exception:  # this look was cut as well
                return False

        await eventually(queued)
        killer: asyncpg.Connection[asyncpg.Record] = await database.connect()
        try:
            await killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            async with asyncio.timeout(10):
                while True:
                    try:
                        first = await add()
                        break
                    except Exception:  # the pool still has connections that were cut
                        continue
        finally:
            await killer.close()
        await eventually(queued)
    finally:
        await loop.stop()


@pytest.mark.whole
async def test_a_stop_that_comes_out_as_a_database_error_still_stops(
    database: Database, settings: Settings
) -> None:
    # As when the rollback of a cancelled statement finds its connection gone.
    scanning = asyncio.Event()

    class Interrupted(ReminderLoop):
        async def scan(self) -> Scan:
            scanning.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ConnectionResetError from None
            return Scan(enqueued=0, already_queued=0)

    loop = Interrupted(database, settings)
    await loop.start()
    await scanning.wait()
    await asyncio.wait_for(loop.stop(), 5)
    assert not loop._loop.alive


async def test_a_scan_that_breaks_is_logged_counted_and_tried_again(
    database: Database, settings: Settings
) -> None:
    again = asyncio.Event()

    class Broken(ReminderLoop):
        scans = 0

        async def scan(self) -> Scan:
            self.scans += 1
            if self.scans == 1:
                raise ValueError("a mistake of ours")
            again.set()
            return Scan(enqueued=0, already_queued=0)

    restarts = WORKER_RESTARTS.labels("reminders")._value
    before = restarts.get()
    loop = Broken(database, settings)
    await loop.start()
    try:
        await asyncio.wait_for(again.wait(), 10)
    finally:
        await loop.stop()
    assert restarts.get() == before + 1
