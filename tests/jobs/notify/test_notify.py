"""Wake-ups make it quick; polling makes it sure."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.jobs import NewJob, Registry, enqueue, enqueue_batch, reschedule_job
from service.jobs.core.lane import Lane
from service.jobs.notify.messages import (
    MAX_LANES,
    MAX_NOTIFY_BYTES,
    Look,
    Message,
    Policies,
    Wake,
    decode,
    encode,
)
from service.jobs.notify.subscriber import Subscription
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.waiting import occurs, until, until_ended, until_true

SELDOM: dict[str, Any] = {"poll_min_seconds": 10, "poll_max_seconds": 60}
LISTENING = """
SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"""


@pytest.fixture
async def notes(database: Database) -> AsyncIterator[list[str]]:
    """What is notified on the channel."""
    texts: list[str] = []
    connection = await database.connect()
    await connection.add_listener("finmind_jobs", lambda *args: texts.append(str(args[3])))
    yield texts
    await connection.close()


@pytest.fixture
def heard() -> Iterable[list[Lane]]:
    """What the workers of this process are told."""
    lanes: list[Lane] = []

    def notified(message: Message) -> None:
        assert isinstance(message, Wake)
        lanes.extend(message.lanes)

    subscription = Subscription(notified)
    yield lanes
    subscription.close()


async def idle(sql: Any, worker: Any) -> None:
    """Wait until the worker listens and has looked at an empty table."""
    await until(lambda: sql.fetchval(LISTENING))
    rounds = worker.last_loop_at
    await until_true(lambda: not worker._pipeline.claimer._woken.is_set() and rounds > 0)


async def test_a_commit_wakes_an_idle_worker_of_this_process(
    handlers: Registry, session: AsyncSession, sql: Any, start_worker: StartWorker
) -> None:
    ran = asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        ran.set()

    await start_worker(database_listen=False, **SELDOM)
    async with session.begin():
        await enqueue(session, "mail")
    await occurs(ran, seconds=1)


async def test_a_notification_wakes_an_idle_worker_of_another_process(
    handlers: Registry, session: AsyncSession, sql: Any, start_worker: StartWorker
) -> None:
    started: list[float] = []
    ran = asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        started.append(time.monotonic())
        ran.set()

    worker = await start_worker(**SELDOM)
    assert worker._subscription is not None
    worker._subscription.close()  # as deaf to this process as one of another is
    await idle(sql, worker)
    async with session.begin():
        await enqueue(session, "mail")
    committed = time.monotonic()
    await occurs(ran, seconds=5)
    assert started[0] - committed < 1


async def test_polling_alone_finds_every_job(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None: ...

    await start_worker(database_listen=False)
    assert await sql.fetchval(LISTENING) == 0
    for _ in range(3):
        # A bare driver connection has no hook: nobody is told.
        assert (await until_ended(sql, await put("mail")))["status"] == "SUCCESS"


@pytest.mark.parametrize("kind", ["session", "connection"])
async def test_a_commit_is_notified_and_a_rollback_is_not(
    database: Database, notes: list[str], heard: list[Lane], kind: str
) -> None:
    opened = database.sessions() if kind == "session" else database.engine.connect()
    async with opened as transaction:
        await enqueue(transaction, "mail", queue="rolled.back")
        await transaction.rollback()
        await enqueue(transaction, "mail", queue="committed", priority=4)
        assert heard == []
        await transaction.commit()
    await until_true(lambda: bool(notes))
    assert [decode(note) for note in notes] == [Wake((Lane("committed", 4),))]
    assert heard == [Lane("committed", 4)]


async def test_a_savepoint_tells_nobody_before_the_whole_is_committed(
    session: AsyncSession, heard: list[Lane]
) -> None:
    async with session.begin():
        async with session.begin_nested():
            await enqueue(session, "mail")
        assert heard == []
    assert heard == [Lane("default", 2)]


async def test_a_savepoint_rolled_back_leaves_the_others_their_wake_up(
    session: AsyncSession, heard: list[Lane]
) -> None:
    async with session.begin():
        await enqueue(session, "mail", queue="kept")
        async with session.begin_nested() as savepoint:
            await enqueue(session, "mail", queue="undone")
            await savepoint.rollback()
    assert Lane("kept", 2) in heard


async def test_a_job_for_later_wakes_nobody(session: AsyncSession, heard: list[Lane]) -> None:
    async with session.begin():
        await enqueue(session, "mail", delay_seconds=60)
    assert heard == []


async def test_a_job_moved_to_another_time_wakes_its_lane(
    session: AsyncSession, sql: Any, heard: list[Lane]
) -> None:
    (job,) = await enqueue_batch(sql, [NewJob("mail", queue="moved", delay_seconds=60)])
    async with session.begin():
        await reschedule_job(session, job.id, job.created_at)
    assert heard == [Lane("moved", 2)]


async def test_commits_close_together_share_their_notifications(
    database: Database, notes: list[str]
) -> None:
    for _ in range(40):
        async with database.sessions.begin() as session:
            await enqueue(session, "mail", queue="last" if _ == 39 else "default")
    await until_true(lambda: any("last" in note for note in notes))
    assert len(notes) < 40


def test_a_notification_names_its_lanes() -> None:
    wake = Wake((Lane("a", 1), Lane("b", 0)))
    assert decode(encode(wake)) == wake
    assert decode(encode(Policies())) == Policies()


def test_a_notification_of_too_many_lanes_names_none() -> None:
    lanes = tuple(Lane(f"q{n}", 1) for n in range(MAX_LANES + 1))
    assert decode(encode(Wake(lanes))) == Look()


def test_the_longest_notification_is_one_that_postgresql_takes() -> None:
    lanes = tuple(Lane("q" * 97 + f"{n:03}", 9) for n in range(MAX_LANES))
    text = encode(Wake(lanes))
    assert len(text.encode()) < 8000


@pytest.mark.parametrize("text", ["", "x", "null", "{}", "[1]", '["ab"]', '[["a"]]', '[["a","b"]]'])
def test_a_notification_that_is_not_ours_has_the_worker_look_for_itself(text: str) -> None:
    assert decode(text) == Look()


@pytest.mark.parametrize(
    "text",
    [
        '[["a", 32768]]',
        '[["a", -32769]]',
        '[["a", 1e400]]',
        r'[["\u0000", 1]]',
        r'[["\ud800", 1]]',
        "[" * MAX_NOTIFY_BYTES,
    ],
)
def test_a_lane_that_no_table_can_hold_is_not_claimed_from(text: str) -> None:
    """One such lane would make PostgreSQL, or the driver, refuse the claims of every worker."""
    assert decode(text) == Look()


@pytest.mark.parametrize(
    "text", ['{"kind": "cancel", "v": 1, "jobs": [7]}', '{"kind": "wake", "v": 9}']
)
def test_an_unknown_kind_of_message_means_look(text: str) -> None:
    assert decode(text) == Look()


def test_a_wake_up_is_written_as_the_version_before_reads_it() -> None:
    assert encode(Wake((Lane("mail", 2),))) == '[["mail", 2]]'


async def test_what_a_stopping_worker_gives_back_wakes_another_at_once(
    handlers: Registry, database: Database, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    running, again = asyncio.Event(), asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        if running.is_set():
            again.set()
        else:
            running.set()
            await asyncio.get_running_loop().create_future()

    first = await start_worker(shutdown_grace_seconds=0)
    job_id = await put("mail")
    await occurs(running)
    other = await start_worker(sweep_seconds=60, **SELDOM)
    await idle(sql, other)
    await until(lambda: sql.fetchval(LISTENING + " HAVING count(*) = 2"))
    await first.stop()
    await occurs(again, seconds=5)
    assert (await until_ended(sql, job_id))["attempts"] == 1


async def test_an_overdue_job_is_announced_like_one_due_now(
    session: AsyncSession, heard: list[Lane]
) -> None:
    now = datetime.now(UTC)
    async with session.begin():
        await enqueue(session, "mail", queue="past", run_at=now - timedelta(seconds=5))
        await enqueue(session, "mail", queue="future", run_at=now + timedelta(hours=1))
    assert heard == [Lane("past", 2)]
