"""Orphans of a queue that may start nothing else are found past its due jobs: they have its permits."""

from collections import Counter
from typing import Any, Final

import pytest

from service.jobs import Registry
from tests.jobs.conftest import StartWorker
from tests.jobs.waiting import until

LIMIT: Final = 3
ADD: Final = """
INSERT INTO background_jobs (job_type, payload, queue, priority, next_run_at)
SELECT 'mail', to_jsonb($1::text), 'limited', $2, now() - make_interval(secs => $3)
FROM generate_series(1, $4)
"""
ORPHAN: Final = """
UPDATE jobs_live SET status = 'RUNNING', attempts = 1, lease_token = 1, worker_id = 1, permits = $1,
  lease_until = now() - interval '1 s', started_at = now() WHERE payload = '"orphan"'
"""
HOLD: Final = """
UPDATE jobs_live SET held_for = $1, held_since = now(), held_due_at = next_run_at,
  next_run_at = 'infinity' WHERE payload = '"held"'
"""
ORPHANS_LEFT: Final = "SELECT count(*) FROM jobs_live WHERE payload = '\"orphan\"'"


@pytest.fixture
def ran(handlers: Registry) -> Counter[str]:
    """How many jobs of each name have run."""
    names: Counter[str] = Counter()

    @handlers.handler("mail")
    async def mail(name: Any) -> None:
        names[name] += 1

    return names


async def fill(sql: Any, *, permit: str) -> None:
    """Orphans with this permit, among thousands of due jobs, and jobs that are held for it."""
    await sql.execute(ADD, "urgent", 0, 60.0, 1000)
    await sql.execute(ADD, "before", 2, 90.0, 5000)
    await sql.execute(ADD, "orphan", 2, 60.0, LIMIT)
    await sql.execute(ADD, "behind", 2, 30.0, 5000)
    await sql.execute(ADD, "held", 2, 90.0, 100)
    await sql.execute(ORPHAN, [permit])
    await sql.execute(HOLD, permit)


async def none_is_left(sql: Any) -> None:
    async def ended() -> bool:
        return bool(await sql.fetchval(ORPHANS_LEFT) == 0)

    await until(ended, seconds=20)


async def test_orphans_that_hold_all_permits_are_taken_over_past_the_due_jobs_of_their_queue(
    ran: Counter[str], sql: Any, start_worker: StartWorker
) -> None:
    await sql.execute("INSERT INTO queues (name, max_running) VALUES ('limited', $1)", LIMIT)
    await sql.execute("INSERT INTO job_permits VALUES ('queue:limited', $1, $1)", LIMIT)
    await fill(sql, permit="queue:limited")
    await start_worker(worker_concurrency=10)
    await none_is_left(sql)
    assert ran["orphan"] == LIMIT


async def test_orphans_of_a_queue_whose_rate_is_used_up_are_taken_over_past_its_due_jobs(
    ran: Counter[str], sql: Any, start_worker: StartWorker
) -> None:
    await sql.execute(
        "INSERT INTO queues (name, rate_limit, rate_seconds, rate_burst) VALUES ('limited', 1, 3600, 1)"
    )
    await sql.execute(
        "INSERT INTO rate_limits VALUES ('rate:limited', 'limited', now() + interval '1 h')"
    )
    await fill(sql, permit="rate:limited")
    await start_worker(worker_concurrency=10)
    await none_is_left(sql)
    assert ran == {"orphan": LIMIT}, "each has started before, and takes no turn of another"
