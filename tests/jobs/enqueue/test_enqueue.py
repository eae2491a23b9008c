"""Enqueueing in the caller's transaction: what is stored, what is refused, who hears of it."""

import asyncio
import math
import sqlite3
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from service.db.engine import Database
from service.errors import InvalidInput, PayloadError
from service.jobs import Backoff, NewJob, enqueue, enqueue_batch, enqueue_many
from service.jobs.core.encoded_jobs import encode_jobs
from service.jobs.core.encoding import MAX_STATEMENT_BYTES
from service.jobs.core.job_types import DEFAULTS, policies
from service.jobs.handlers.registry import registry
from tests.jobs.conftest import Events


async def count(sql: Any) -> int:
    jobs: int = await sql.fetchval("SELECT count(*) FROM background_jobs")
    return jobs


async def row(sql: Any, job_id: int) -> Any:
    return await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)


async def test_a_job_is_there_once_the_session_commits(
    session: AsyncSession, sql: Any, events: Events
) -> None:
    async with session.begin():
        job = await enqueue(session, "enqueue.mail", {"to": "x"})
        assert await count(sql) == 0
    assert job.created
    stored = await row(sql, job.id)
    assert (stored["job_type"], stored["payload"]) == ("enqueue.mail", {"to": "x"})
    assert (stored["status"], stored["attempts"], stored["queue"]) == ("PENDING", 0, "default")
    assert (stored["priority"], stored["created_at"]) == (2, job.created_at)
    assert stored["next_run_at"] == job.next_run_at
    assert events("enqueued", "enqueue.mail") == 1


async def test_a_job_is_gone_with_a_session_that_rolls_back(
    session: AsyncSession, sql: Any
) -> None:
    async with session.begin() as transaction:
        await enqueue(session, "mail")
        await transaction.rollback()
    assert await count(sql) == 0


async def test_a_job_joins_the_transaction_of_a_core_connection(
    database: Database, sql: Any
) -> None:
    async with database.engine.connect() as connection:
        await enqueue(connection, "mail")
        await connection.rollback()
        await enqueue(connection, "mail")
        await connection.commit()
    assert await count(sql) == 1


async def test_a_job_joins_the_transaction_of_a_driver_connection(sql: Any) -> None:
    transaction = sql.transaction()
    await transaction.start()
    await enqueue(sql, "mail")
    await transaction.rollback()
    assert await count(sql) == 0
    async with sql.transaction():
        await enqueue(sql, "mail")
    assert await count(sql) == 1


async def test_a_job_and_the_callers_rows_are_committed_together(session: AsyncSession) -> None:
    async with session.begin():
        await session.execute(text("CREATE TABLE orders (id int)"))
        await session.execute(text("INSERT INTO orders VALUES (1)"))
        await enqueue(session, "mail", {"order": 1})
    joined = (
        "SELECT count(*) FROM orders JOIN background_jobs ON payload->'order' = to_jsonb(orders.id)"
    )
    assert (await session.execute(text(joined))).scalar() == 1


async def test_everything_said_of_a_job_is_stored(sql: Any) -> None:
    class Mail(BaseModel):
        to: str

    job = await enqueue(
        sql,
        "mail",
        Mail(to="ä"),
        queue="mails",
        priority=0,
        max_retries=7,
        timeout_seconds=1.5,
        unique_key="order 7",
        backoff=Backoff(base_seconds=1),
    )
    stored = await row(sql, job.id)
    assert stored["payload"] == {"to": "ä"}
    assert (stored["queue"], stored["priority"], stored["max_retries"]) == ("mails", 0, 7)
    assert (stored["timeout_seconds"], stored["unique_key"]) == (1.5, "order 7")
    assert Backoff.from_json(stored["backoff"]) == Backoff(base_seconds=1)


async def test_a_job_that_names_no_queue_takes_its_handlers(
    sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_specs", {})
    monkeypatch.setitem(policies, "mail", DEFAULTS)

    @registry.handler("mail", queue="mails")
    async def handle(payload: Any) -> None: ...

    first, second = await enqueue_batch(sql, [NewJob("mail"), NewJob("mail", queue="other")])
    assert (await row(sql, first.id))["queue"] == "mails"
    assert (await row(sql, second.id))["queue"] == "other"


async def test_a_delay_is_counted_by_the_databases_clock(sql: Any) -> None:
    before = await sql.fetchval("SELECT clock_timestamp()")
    job = await enqueue(sql, "mail", delay_seconds=60)
    after = await sql.fetchval("SELECT clock_timestamp()")
    assert before <= job.next_run_at - timedelta(seconds=60) <= after


async def test_run_at_is_kept_to_the_microsecond_whatever_its_zone(sql: Any) -> None:
    run_at = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    job = await enqueue(sql, "mail", run_at=run_at)
    assert (await row(sql, job.id))["next_run_at"] == run_at


FAR = datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))
ENDLESS = datetime.max.replace(tzinfo=UTC)
"""What the driver sends as infinity, and the first moment of the year 1 as -infinity."""


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("queue", {"queue": "a b"}),
        ("queue", {"queue": "x" * 101}),
        ("priority", {"priority": -1}),
        ("priority", {"priority": 10}),
        ("priority", {"priority": 1.5}),
        ("priority", {"priority": "high"}),
        ("priority", {"priority": True}),
        ("max_retries", {"max_retries": -1}),
        ("max_retries", {"max_retries": 1001}),
        ("max_retries", {"max_retries": 2.5}),
        ("timeout_seconds", {"timeout_seconds": 0}),
        ("timeout_seconds", {"timeout_seconds": math.nan}),
        ("timeout_seconds", {"timeout_seconds": 86_401}),
        ("delay_seconds", {"delay_seconds": -1}),
        ("delay_seconds", {"delay_seconds": math.nan}),
        ("delay_seconds", {"delay_seconds": math.inf}),
        ("run_at", {"run_at": datetime(2030, 1, 1)}),  # noqa: DTZ001 - that is the point
        ("run_at", {"run_at": FAR}),
        ("run_at", {"run_at": ENDLESS}),
        ("run_at", {"run_at": datetime.min.replace(tzinfo=UTC)}),
        ("run_at", {"run_at": datetime(1999, 12, 31, 23, 59, tzinfo=UTC)}),
        ("run_at", {"run_at": datetime(2200, 1, 1, 0, 1, tzinfo=UTC)}),
        ("run_at", {"run_at": datetime(2030, 1, 1, tzinfo=UTC), "delay_seconds": 1}),
        ("unique_key", {"unique_key": ""}),
        ("unique_key", {"unique_key": "x" * 256}),
        ("unique_key", {"unique_key": "a\0b"}),
        ("unique_key", {"unique_key": "a\ud800"}),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused_by_name(field: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=field) as caught:
        encode_jobs([NewJob("mail", **options)], max_payload_bytes=1024)
    assert caught.value.field == field


@pytest.mark.parametrize("job_type", ["", "a b", "mail\n", "x" * 101, "ä", "\ud800"])
def test_a_bad_job_type_is_refused(job_type: str) -> None:
    with pytest.raises(InvalidInput, match="job_type"):
        encode_jobs([NewJob(job_type)], max_payload_bytes=1024)


@pytest.mark.parametrize("payload", [math.nan, "a\0b", "\ud800", "x" * 262_144])
async def test_a_payload_that_cannot_be_stored_is_refused(sql: Any, payload: Any) -> None:
    with pytest.raises(PayloadError):
        await enqueue(sql, "mail", {"x": payload})
    assert await count(sql) == 0


async def test_an_invalid_job_is_named_by_its_position_and_its_batch_not_made(sql: Any) -> None:
    with pytest.raises(InvalidInput, match="Job 1: priority") as caught:
        await enqueue_batch(sql, [NewJob("mail"), NewJob("mail", priority=11)])
    assert caught.value.field == "jobs.1.priority"
    assert await count(sql) == 0


async def test_a_batch_is_answered_and_due_in_the_order_given(sql: Any) -> None:
    jobs = [NewJob("mail", {"n": n}, unique_key=f"k{-n}" if n % 3 else None) for n in range(200)]
    made = await enqueue_batch(sql, jobs)
    payloads = {
        record["id"]: record["payload"]["n"]
        for record in await sql.fetch("SELECT id, payload FROM background_jobs")
    }
    assert [payloads[job.id] for job in made] == list(range(200))


async def test_plain_jobs_of_a_batch_have_ids_in_the_order_given(sql: Any) -> None:
    made = await enqueue_batch(sql, [NewJob("mail") for _ in range(500)])
    assert [job.id for job in made] == sorted(job.id for job in made)
    assert [job.next_run_at for job in made] == sorted(job.next_run_at for job in made)


async def test_an_empty_batch_makes_nothing(sql: Any) -> None:
    assert await enqueue_batch(sql, []) == []


# -- many -----------------------------------------------------------------------------------------


async def test_many_jobs_are_taken_from_an_iterator(session: AsyncSession, sql: Any) -> None:
    def produce() -> Iterator[NewJob]:
        for n in range(2_500):
            yield NewJob("mail", {"n": n})

    async with session.begin():
        assert await enqueue_many(session, produce()) == 2_500
    order = "SELECT array_agg(payload->>'n' ORDER BY id) FROM background_jobs"
    assert await sql.fetchval(order) == [str(n) for n in range(2_500)]


async def test_many_jobs_are_taken_from_an_async_iterator(session: AsyncSession, sql: Any) -> None:
    async def produce() -> AsyncIterator[NewJob]:
        for n in range(25):
            await asyncio.sleep(0)
            yield NewJob("mail", {"n": n})

    async with session.begin():
        assert await enqueue_many(session, produce(), batch_size=10) == 25
    assert await count(sql) == 25


async def test_many_jobs_are_made_all_or_none(session: AsyncSession, sql: Any) -> None:
    def produce() -> Iterator[NewJob]:
        yield from (NewJob("mail") for _ in range(50))
        raise LookupError("the source broke")

    with pytest.raises(LookupError):
        async with session.begin():
            await enqueue_many(session, produce(), batch_size=10)
    assert await count(sql) == 0


async def test_an_iterator_is_never_read_further_ahead_than_a_batch(session: AsyncSession) -> None:
    ahead = [0]

    def produce() -> Iterator[NewJob]:
        for n in range(30):
            ahead.append(n)
            yield NewJob("mail")

    async with session.begin():
        seen = []

        async def spy(jobs: Iterator[NewJob]) -> AsyncIterator[NewJob]:
            for job in jobs:
                stored = await session.execute(text("SELECT count(*) FROM background_jobs"))
                seen.append(ahead[-1] - stored.scalar_one())
                yield job

        await enqueue_many(session, spy(produce()), batch_size=10)
    assert max(seen) < 10


@pytest.mark.parametrize("kind", ["session", "connection", "asyncpg"])
async def test_many_jobs_may_be_made_from_a_stream_of_the_same_transaction(
    database: Database, sql: Any, kind: str
) -> None:
    numbers = "SELECT generate_series(1, 95)"

    async def streamed(opened: AsyncSession | AsyncConnection) -> AsyncIterator[NewJob]:
        async for number in (await opened.stream(text(numbers))).scalars():
            yield NewJob("mail", {"n": number})

    async def read() -> AsyncIterator[NewJob]:
        async for number in sql.cursor(numbers, prefetch=7):
            yield NewJob("mail", {"n": number[0]})

    if kind == "session":
        async with database.sessions.begin() as session:
            assert await enqueue_many(session, streamed(session), batch_size=10) == 95
    elif kind == "connection":
        async with database.engine.begin() as connection:
            assert await enqueue_many(connection, streamed(connection), batch_size=10) == 95
    else:
        async with sql.transaction():
            assert await enqueue_many(sql, read(), batch_size=10) == 95
    assert await count(sql) == 95


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", ["session", "connection", "asyncpg"])
async def test_an_invalid_job_among_many_keeps_the_transaction_usable(
    database: Database, sql: Any, kind: str, asynchronous: bool
) -> None:
    jobs = [NewJob("mail") for _ in range(15)] + [NewJob("mail", priority=77)]
    words = "Job 15: priority is 77.*; 10 jobs before it are stored in this transaction: roll back"

    async def one_by_one() -> AsyncIterator[NewJob]:
        for job in jobs:
            yield job

    async def fill(opened: Any) -> None:
        await enqueue(opened, "before")
        with pytest.raises(InvalidInput, match=words):
            await enqueue_many(opened, one_by_one() if asynchronous else jobs, batch_size=10)
        await enqueue(opened, "after")

    if kind == "session":
        async with database.sessions.begin() as session:
            await fill(session)
    elif kind == "connection":
        async with database.engine.begin() as connection:
            await fill(connection)
    else:
        async with sql.transaction():
            await fill(sql)
    types = await sql.fetch("SELECT job_type FROM background_jobs ORDER BY id")
    assert [row["job_type"] for row in types] == ["before", *["mail"] * 10, "after"]


async def test_a_savepoint_around_many_jobs_undoes_those_before_an_invalid_one(
    session: AsyncSession, sql: Any, events: Events
) -> None:
    jobs = [NewJob("undone.many")] * 15 + [NewJob("undone.many", priority=77)]
    async with session.begin():
        await enqueue(session, "undone.before")
        with pytest.raises(InvalidInput, match="Job 15"):
            async with session.begin_nested():
                await enqueue_many(session, jobs, batch_size=10)
    assert await count(sql) == 1
    assert (events("enqueued", "undone.many"), events("enqueued", "undone.before")) == (0, 1)


async def test_many_jobs_whose_source_fails_leave_the_transaction_usable(
    session: AsyncSession, sql: Any
) -> None:
    def produce() -> Iterator[NewJob]:
        yield from (NewJob("mail") for _ in range(15))
        raise LookupError("the source broke")

    async with session.begin():
        await enqueue(session, "before")
        with pytest.raises(LookupError):
            await enqueue_many(session, produce(), batch_size=10)
        await enqueue(session, "after")
    assert await count(sql) == 12


@pytest.mark.parametrize(
    "other",
    [Session(), sqlite3.connect(":memory:"), async_sessionmaker(), None],
    ids=["Session", "sqlite3", "async_sessionmaker", "None"],
)
async def test_what_is_no_session_is_refused_with_what_to_use_instead(other: Any) -> None:
    expected = r"session is a [\w.]+: expected a SQLAlchemy AsyncSession.*SELECT finmind_jobs.enqueue_job.*POST /jobs"
    with pytest.raises(InvalidInput, match=expected):
        await enqueue(other, "mail")
    with pytest.raises(InvalidInput, match=expected):
        await enqueue_many(other, [NewJob("mail")])


async def test_a_session_on_another_driver_is_refused(
    session: AsyncSession, database: Database
) -> None:
    database.engine.dialect.driver = "psycopg"
    with pytest.raises(InvalidInput, match=r"driver psycopg: expected .*postgresql\+asyncpg://"):
        await enqueue(session, "mail")


async def test_jobs_whose_keys_are_taken_are_not_counted_among_many(session: AsyncSession) -> None:
    jobs = [NewJob("mail", unique_key=f"k{n % 4}") for n in range(12)]
    async with session.begin():
        assert await enqueue_many(session, jobs, batch_size=5) == 4


# -- unique keys ----------------------------------------------------------------------------------


async def test_a_second_job_with_a_key_finds_the_first(sql: Any, events: Events) -> None:
    first = await enqueue(sql, "enqueue.keyed", {"n": 1}, unique_key="k")
    second = await enqueue(sql, "enqueue.keyed", {"n": 2}, unique_key="k")
    assert (first.created, second.created) == (True, False)
    assert (second.id, second.next_run_at) == (first.id, first.next_run_at)
    assert (await row(sql, first.id))["payload"] == {"n": 1}
    assert events("enqueued", "enqueue.keyed") == 1


async def test_a_key_given_twice_in_one_batch_makes_one_job(sql: Any) -> None:
    first, plain, second = await enqueue_batch(
        sql, [NewJob("mail", unique_key="k"), NewJob("mail"), NewJob("mail", unique_key="k")]
    )
    assert (first.created, plain.created, second.created) == (True, True, False)
    assert first.id == second.id != plain.id


async def test_fifty_enqueues_with_one_key_make_one_job(database: Database, sql: Any) -> None:
    async def one() -> tuple[int, bool]:
        connection = await database.connect()
        try:
            job = await enqueue(connection, "mail", unique_key="k")
            return job.id, job.created
        finally:
            await connection.close()

    answers = await asyncio.gather(*(one() for _ in range(50)))
    assert await count(sql) == 1
    assert len({job_id for job_id, _ in answers}) == 1
    assert sum(created for _, created in answers) == 1


async def test_batches_with_the_same_keys_in_opposite_order_do_not_deadlock(
    database: Database, sql: Any
) -> None:
    keys = [f"k{n}" for n in range(300)]

    async def many(order: list[str]) -> None:
        async with database.sessions.begin() as session:
            await enqueue_batch(session, [NewJob("mail", unique_key=key) for key in order])

    async with asyncio.timeout(20):
        await asyncio.gather(*(many(keys[:: 1 if n % 2 else -1]) for n in range(6)))
    assert await count(sql) == 300


@pytest.mark.whole
async def test_many_large_jobs_go_out_in_statements_of_bounded_size(
    session: AsyncSession, sql: Any
) -> None:
    payload = "x" * 200_000
    async with session.begin():
        assert await enqueue_many(session, (NewJob("mail", payload) for _ in range(100))) == 100
    sizes = await sql.fetch("SELECT sum(length(payload::text)) FROM jobs_live GROUP BY cmin::text")
    assert max(row[0] for row in sizes) <= MAX_STATEMENT_BYTES + len(payload)
