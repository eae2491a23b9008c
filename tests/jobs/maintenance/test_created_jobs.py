"""The leader counts jobs that anybody created, by SQL or in whatever process."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from prometheus_client import REGISTRY

from service.db.engine import Database
from service.jobs import Registry
from service.jobs.core.lane import MAX_LANES
from service.jobs.maintenance.created_jobs import MAX_COUNTED, CreatedJobs
from service.jobs.maintenance.maintainer import Maintainer
from service.observability.queue_gauges import clear_queue_gauges
from tests.jobs.conftest import Quick, StartWorker

BY_SQL = "INSERT INTO background_jobs (job_type) SELECT $1 FROM generate_series(1, $2::int)"


@pytest.fixture
async def created(database: Database) -> AsyncIterator[CreatedJobs]:
    link = database.link()
    one = CreatedJobs(link)
    await one.count()
    yield one
    await link.close()


@pytest.fixture
def counted() -> Callable[[str], float]:
    """How many jobs of a type were counted since the test began."""

    def value(job_type: str) -> float:
        labels = {"job_type": job_type}
        return REGISTRY.get_sample_value("finmind_jobs_created_total", labels) or 0.0

    before: dict[str, float] = {name: value(name) for name in ("by-sql", "late", "many", "few")}
    return lambda job_type: value(job_type) - before[job_type]


async def rounds(created: CreatedJobs, number: int = 3) -> None:
    for _ in range(number):
        await created.count()


async def test_jobs_made_by_sql_are_counted_once(
    created: CreatedJobs, sql: Any, counted: Callable[[str], float]
) -> None:
    await sql.execute(BY_SQL, "by-sql", 7)
    await rounds(created, 6)
    assert counted("by-sql") == 7
    await sql.execute(BY_SQL, "by-sql", 2)
    await rounds(created, 6)
    assert counted("by-sql") == 9


async def test_a_job_that_has_ended_meanwhile_is_counted(
    created: CreatedJobs, sql: Any, counted: Callable[[str], float]
) -> None:
    await sql.execute(BY_SQL, "by-sql", 1)
    await sql.execute("UPDATE background_jobs SET status = 'SUCCESS', finished_at = now()")
    await rounds(created)
    assert counted("by-sql") == 1


async def test_a_transaction_that_commits_late_is_counted_too(
    created: CreatedJobs, sql: Any, pg_dsn: str, counted: Callable[[str], float]
) -> None:
    late = await asyncpg.connect(pg_dsn)
    transaction = late.transaction()
    await transaction.start()
    await late.execute(BY_SQL, "late", 5)
    await sql.execute(BY_SQL, "by-sql", 1)
    await rounds(created, 5)
    assert counted("late") == 0
    await transaction.commit()
    await late.close()
    await rounds(created, 5)
    assert counted("late") == 5
    assert counted("by-sql") == 1


async def test_more_than_one_round_reads_are_estimated_from_a_sample(
    created: CreatedJobs, sql: Any, counted: Callable[[str], float]
) -> None:
    await sql.execute(BY_SQL, "many", 4 * MAX_COUNTED)
    await sql.execute(BY_SQL, "few", MAX_COUNTED)
    await rounds(created)
    assert counted("many") + counted("few") == pytest.approx(5 * MAX_COUNTED, abs=2)
    assert counted("few") == pytest.approx(MAX_COUNTED, rel=0.05)


async def test_what_another_leader_counted_is_not_counted_again(
    created: CreatedJobs, sql: Any, counted: Callable[[str], float]
) -> None:
    await sql.execute(BY_SQL, "by-sql", 3)
    created.forget()
    await rounds(created, 5)
    assert counted("by-sql") == 0


async def test_the_leader_counts_as_one_of_its_duties(
    database: Database,
    handlers: Registry,
    quick: Quick,
    sql: Any,
    counted: Callable[[str], float],
) -> None:
    leader = Maintainer(database, quick(), handlers=handlers)
    await leader.do_duties()
    await sql.execute(BY_SQL, "by-sql", 4)
    for _ in range(3):
        await leader.do_duties()
    await leader.close()
    assert counted("by-sql") == 4


async def test_a_queue_that_a_worker_serves_is_shown_behind_any_crowd(
    database: Database, handlers: Registry, quick: Quick, sql: Any, start_worker: StartWorker
) -> None:
    await sql.execute(
        "INSERT INTO background_jobs (job_type, queue, next_run_at)"
        " SELECT 'mail', 'q' || n, now() + interval '1 day' FROM generate_series(1, $1::int) n",
        MAX_LANES + 100,
    )
    await sql.execute("INSERT INTO background_jobs (job_type, queue) VALUES ('mail', 'z')")
    await start_worker(worker_queues=("z:5",))
    leader = Maintainer(database, quick(), handlers=handlers)
    await leader.do_duties()
    depth = REGISTRY.get_sample_value("finmind_queue_depth", {"queue": "z"})
    await leader.close()
    clear_queue_gauges()
    assert depth == 1
