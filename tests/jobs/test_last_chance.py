"""Jobs that ended with their worker twice already begin one at a time."""

import asyncio
from collections import Counter
from typing import Any

from benchmarks.plans import ExplainingLink
from service.db.engine import Database
from service.jobs import JobContext, NewJob, Registry, enqueue_batch, store
from service.jobs.model import JobId
from tests.jobs.claims import claim
from tests.jobs.conftest import Events, Put, StartWorker
from tests.jobs.waiting import until, until_true

JOBS = 6
LOST_TWICE = """
UPDATE jobs_live SET status = 'RUNNING', attempts = 2, lost_leases = 1, lease_token = -id,
  started_at = now(), lease_until = now() - interval '1 second'"""


class Ward:
    """Counts how many of the suspects run at once."""

    def __init__(self, handlers: Registry) -> None:
        self.suspects: set[JobId] = set()
        self.under_way: set[JobId] = set()
        self.begun: Counter[JobId] = Counter()
        self.most_at_once = 0
        self.go_on = asyncio.Event()
        handlers.handler("mail", max_retries=9)(self._run)

    async def _run(self, _: Any, context: JobContext) -> None:
        self.begun[context.job_id] += 1
        if context.job_id not in self.suspects:
            return
        self.under_way.add(context.job_id)
        self.most_at_once = max(self.most_at_once, len(self.under_way))
        await self.go_on.wait()
        self.under_way.discard(context.job_id)


async def test_of_jobs_on_their_last_chance_one_at_a_time_begins_in_a_worker(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    ward = Ward(handlers)
    ward.suspects = {await put("mail") for _ in range(JOBS)}
    await sql.execute(LOST_TWICE)
    others = [await put("mail") for _ in range(JOBS)]
    await start_worker(max_lost_leases=3)
    await until_true(lambda: len(ward.under_way) == 1)
    # Those that are no suspects go on beside it.
    await until_true(lambda: all(ward.begun[other] for other in others))
    put_off = await sql.fetch(
        "SELECT status, attempts, lost_leases FROM jobs_live WHERE attempts = 2"
    )
    assert {tuple(row) for row in put_off} == {("PENDING", 2, 2)}
    ward.go_on.set()

    async def all_ended() -> bool:
        return not await sql.fetchval("SELECT count(*) FROM jobs_live")

    await until(all_ended, seconds=30)
    rows = await sql.fetch("SELECT status, count(*) FROM background_jobs GROUP BY 1")
    assert [tuple(row) for row in rows] == [("SUCCESS", 2 * JOBS)]
    assert ward.most_at_once == 1
    assert set(ward.begun.values()) == {1}
    assert events("rescued", "mail") == JOBS


async def test_those_that_lost_one_lease_begin_together(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    ward = Ward(handlers)
    ward.suspects = {await put("mail") for _ in range(JOBS)}
    await sql.execute(LOST_TWICE)
    await start_worker(max_lost_leases=4)
    await until_true(lambda: len(ward.under_way) == JOBS)
    ward.go_on.set()
    await until_true(lambda: not ward.under_way)


async def test_putting_jobs_off_only_probes(database: Database, sql: Any) -> None:
    await enqueue_batch(sql, [NewJob("mail") for _ in range(20)])
    jobs = await claim(database, ["mail"])
    await sql.execute("VACUUM ANALYZE background_jobs")  # else planned as if there were many
    link = ExplainingLink(database, modes=("generic",))
    assert await store.put_off(link, [job.lease for job in jobs[:10]], seconds=1.0) == 10
    await link.close()
    [put_off] = link.explained
    kinds = {node["Node Type"] for node in put_off.nodes()}
    assert not kinds & {"Hash Join", "Merge Join", "Seq Scan"}, put_off.text
