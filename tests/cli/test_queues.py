"""The command `queues`."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import NewJob, enqueue_batch
from tests import databases
from tests.running import Run

RUNS = "UPDATE jobs_live SET status = 'RUNNING', lease_until = now() + interval '1 h'"


@pytest.fixture
async def sql(pg_dsn: str) -> AsyncIterator[Any]:
    connection = await databases.connect(pg_dsn)
    yield connection
    await connection.close()


async def enqueue(database: Database, *queues: str) -> None:
    async with database.sessions.begin() as session:
        await enqueue_batch(session, [NewJob("x", queue=queue) for queue in queues])


async def test_queues_are_listed_with_what_is_set_for_them(
    run: Run, pg_dsn: str, database: Database
) -> None:
    await enqueue(database, "mail", "mail", "sms")
    run("queues", "pause", "mail", "--reason", "it is down", DATABASE_URL=pg_dsn)
    limits = ("--max-running", "40", "--rate", "100/60:5", "--rate-per-key", "5/1")
    made = run("queues", "set", "mail", *limits, DATABASE_URL=pg_dsn).stdout
    shown = "max_running=40  rate=100/60:5  rate_per_key=5/1"
    assert made == f"mail  {shown}\n"
    mail, sms = run("queues", "list", DATABASE_URL=pg_dsn).stdout.splitlines()
    assert mail.startswith(f"mail  due=2  held=0  running=0  failed=0  workers=0  {shown}  ")
    assert mail.endswith(": it is down")
    assert sms == "sms  due=1  held=0  running=0  failed=0  workers=0"


async def test_a_limit_that_is_not_named_stays_and_none_lifts_one(
    run: Run, pg_dsn: str, sql: Any
) -> None:
    run("queues", "set", "q", "--max-running", "4", "--weight", "2", DATABASE_URL=pg_dsn)
    run("queues", "set", "q", "--max-running", "none", DATABASE_URL=pg_dsn)
    assert await sql.fetch("SELECT max_running, weight FROM queues") == [(None, 2)]
    for flag, words in (("--key-fairness", "  key_fairness=on"), ("--no-key-fairness", "")):
        made = run("queues", "set", "q", flag, DATABASE_URL=pg_dsn).stdout
        assert made == f"q  weight=2{words}\n"
    resumed = run("queues", "resume", "q", DATABASE_URL=pg_dsn)
    assert resumed.stderr == "q was not paused\n"
    run("queues", "set", "q", "--weight", "none", DATABASE_URL=pg_dsn)
    assert await sql.fetchval("SELECT count(*) FROM queues") == 0
    (actor,) = await sql.fetch("SELECT DISTINCT left(actor, 4) FROM audit_log")
    assert actor == ("cli:",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--max-running", "0"), "max_running is 0: expected a whole number from 1"),
        (("--rate", "many"), "'many' is not such as 100/60"),
        ((), "Nothing is to be set"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_in_words(
    run: Run, pg_dsn: str, arguments: tuple[str, ...], words: str
) -> None:
    done = run("queues", "set", "q", *arguments, DATABASE_URL=pg_dsn)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.whole
async def test_a_drain_waits_until_nothing_runs_and_gives_up_in_time(
    run: Run, pg_dsn: str, database: Database, sql: Any
) -> None:
    await enqueue(database, "q", "q")
    await databases.execute(pg_dsn, RUNS)
    late = run("queues", "drain", "q", "--timeout", "0", DATABASE_URL=pg_dsn)
    assert (late.returncode, late.stderr.splitlines()[-1]) == (
        1, "q: 2 jobs run after 0 seconds; it stays paused",
    )  # fmt: skip
    await databases.execute(pg_dsn, "UPDATE jobs_live SET status = 'PENDING', lease_until = NULL")
    done = run("queues", "drain", "q", DATABASE_URL=pg_dsn)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        0, "q is drained: nothing of it runs",
    )  # fmt: skip
    assert await sql.fetchval("SELECT paused_at IS NOT NULL FROM queues")
