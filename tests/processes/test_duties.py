"""What one replica of all must do: migrate, turn reminders into jobs, lead the maintenance."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from service.db.engine import Database
from service.db.migrate import head_revision
from service.jobs.maintenance.kept_counts import FOLD_ABOVE_ROWS
from service.jobs.store.partitions import PREFIX
from tests.processes.fleet import Fleet, Replica, until
from tests.processes.workload import all_succeed, check_each_succeeded_once, enqueue_all, flaky_jobs

pytestmark = pytest.mark.timeout(120)

REMIND = """
INSERT INTO reminders (send_at, user_id, message, channel, recipient)
SELECT now() - make_interval(secs => 1), 'user-' || n, 'pay the bill', 'log', 'user-' || n
FROM generate_series(1, $1) n
"""


@pytest.mark.parametrize("schema", ["finmind_jobs", "public"])
async def test_five_replicas_that_start_at_once_make_one_schema(
    fleet: Fleet, empty_dsn: str, schema: str
) -> None:
    replicas = await fleet.start(5, empty_dsn, DATABASE_SCHEMA=schema)
    connection = await asyncpg.connect(empty_dsn)
    versions = await connection.fetch("SELECT version_num FROM alembic_version")
    await connection.close()
    assert [row[0] for row in versions] == [head_revision()]
    await enqueue_all(empty_dsn, flaky_jobs(500, seconds=0.02))
    connection = await asyncpg.connect(empty_dsn)
    await all_succeed(connection, 500, 60)
    await connection.close()
    assert [await replica.terminate() for replica in replicas] == [0] * 5, fleet.said()


async def test_three_reminder_loops_make_one_job_for_each_due_reminder(
    fleet: Fleet, database: Database, pg_dsn: str
) -> None:
    connection = await database.connect()
    await connection.execute(REMIND, 700)  # more than one batch of a scan, before the first scan
    await fleet.start(3, pg_dsn, REMINDER_SCAN_SECONDS=0.1)
    await connection.execute(REMIND, 700)

    async def all_sent() -> bool:
        unsent = "SELECT count(*) FROM reminders WHERE status <> 'sent'"
        return not await connection.fetchval(unsent)

    await until(all_sent, 60, what="delivery of every reminder")
    await all_succeed(connection, 1400, 30)
    counted = await connection.fetch(
        "SELECT count(*), count(DISTINCT payload ->> 'reminder_id'), sum(attempts)"
        " FROM background_jobs WHERE job_type = 'send_reminder'"
    )
    await connection.close()
    assert [tuple(row) for row in counted] == [(1400, 1400, 1400)]
    await check_each_succeeded_once(database, count=1400)
    assert await fleet.total("finmind_reminder_events_total", event="sent") == 1400


async def test_after_kill_9_of_the_leader_another_takes_over_its_duties(
    fleet: Fleet, database: Database, pg_dsn: str
) -> None:
    replicas = await fleet.start(
        3, pg_dsn, MAINTENANCE_SECONDS=0.2, LEASE_SECONDS=4, HEARTBEAT_SECONDS=1
    )
    connection = await database.connect()
    leader = await leader_of(replicas)
    await partition_made(connection, ahead=7)
    # The leader looks for missing partitions once a minute only, so this is left to its successor.
    await connection.execute(f"DROP TABLE {partition(ahead=7)}")
    await enqueue_all(pg_dsn, flaky_jobs(2_000, queues=10, seconds=0.005))
    await fleet.noted("end", 500)
    leader.kill()

    others = [replica for replica in replicas if replica is not leader]
    await leader_of(others)
    await partition_made(connection, ahead=7)
    await all_succeed(connection, 2_000, 60)

    async def folded() -> bool:
        rows = await connection.fetchval("SELECT count(*) FROM job_stats")
        return bool(rows < FOLD_ABOVE_ROWS)

    await until(folded, 20, what="folded counts")
    await rates_agree(connection)
    strays = await connection.fetchval("SELECT count(*) FROM jobs_done_default")
    await connection.close()
    assert strays == 0
    await check_each_succeeded_once(database, count=2_000)
    assert [await replica.leads() for replica in others].count(True) == 1


RATES = """
SELECT step, scope, sum(jobs) FILTER (WHERE outcome = 'SUCCESS') AS succeeded,
  sum(jobs) FILTER (WHERE outcome = 'RETRIED') AS retried, sum(timed) AS timed
FROM job_rates CROSS JOIN LATERAL (
  SELECT sum(value::int) AS timed FROM jsonb_each_text(runs)) AS s
GROUP BY 1, 2
"""
ERRORS = """
SELECT count(*) FROM background_jobs CROSS JOIN jsonb_array_elements(errors) AS entry
WHERE entry ->> 'event' = 'error'
"""
FIRST_ATTEMPTS_LOST = """
SELECT count(*) FROM background_jobs
WHERE payload @> '{"fails": true}' AND errors @> '[{"event": "lease_lost", "attempt": 1}]'
"""


async def rates_agree(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Whoever settled and whoever folded: each end is counted once by minute, hour and day."""

    async def folded() -> bool:
        return not await connection.fetchval("SELECT EXISTS (SELECT FROM job_rate_deltas)")

    await until(folded, 20, what="folded counts by minute")
    errors = await connection.fetchval(ERRORS)
    # Whoever was killed may have taken a claim of such jobs along: their second attempt succeeds.
    assert errors >= 400 - await connection.fetchval(FIRST_ATTEMPTS_LOST)
    rates = await connection.fetch(RATES)
    assert len(rates) == 9
    assert {tuple(row)[2:] for row in rates} == {(2_000, errors, 2_000 + errors)}


async def leader_of(replicas: list[Replica]) -> Replica:
    """The one that leads; waits until one does."""

    async def found() -> Replica | None:
        for replica in replicas:
            if await replica.leads():
                return replica
        return None

    leader = await until(found, 20, what="leader")
    assert leader is not None
    return leader


def partition(*, ahead: int) -> str:
    """The name of a day's partition."""
    return f"{PREFIX}{datetime.now(UTC) + timedelta(days=ahead):%Y%m%d}"


async def partition_made(connection: "asyncpg.Connection[asyncpg.Record]", *, ahead: int) -> None:
    """Wait until the day's partition stands."""

    async def stands() -> bool:
        found = await connection.fetchval("SELECT to_regclass($1)", partition(ahead=ahead))
        return found is not None

    await until(stands, 20, what=f"partition {partition(ahead=ahead)}")
