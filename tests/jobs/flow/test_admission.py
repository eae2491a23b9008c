"""Between claim and start: what is not admitted does not start, and takes no slot."""

from collections.abc import Sequence
from typing import Any

from service.db.engine import Database
from service.jobs import NewJob, Registry, enqueue_batch
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.flow.admission import Admission, Admitted
from service.jobs.worker.pipeline import Pipeline
from tests.jobs.conftest import Quick


class EverySecond(Admission):
    """Parks every second job."""

    async def admit(self, jobs: Sequence[ClaimedJob]) -> Admitted:
        jobs = sorted(jobs, key=lambda job: job.id)
        return Admitted(jobs[::2], jobs[1::2])


async def test_only_what_is_admitted_starts_and_takes_a_slot(
    database: Database, handlers: Registry, quick: Quick, sql: Any
) -> None:
    seen: list[int] = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        seen.append(payload["n"])

    await enqueue_batch(sql, [NewJob("mail", {"n": n}) for n in range(10)])
    pipeline = Pipeline(database, quick(), handlers=handlers, admission=EverySecond())
    await pipeline.start()
    try:
        await pipeline.claimer.plan.list_lanes()
        assert await pipeline.claimer.claim_once(10) == (10, 10)
        assert pipeline.slots.used == 5
        while pipeline.executor.unfinished:
            await pipeline.executor.wait_for_one()
    finally:
        await pipeline.stop(grace_seconds=1)
    assert seen == [0, 2, 4, 6, 8]
    assert pipeline.slots.used == 0


async def test_a_job_is_admitted_where_no_limit_holds_across_processes() -> None:
    job = ClaimedJob(1, 1, "default", "mail", 2, 1, None, None, 0, 0.0, 0.0, "{}", None)  # type: ignore[arg-type]
    assert await Admission().admit([job]) == Admitted([job])
