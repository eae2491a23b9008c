"""A process that ends at a named point of a job's way leaves what that point predicts."""

import asyncio
from collections import Counter
from typing import Final

import pytest

from tests.chaos.crashing import EXIT_CODE, Point
from tests.chaos.ledger import Event
from tests.chaos.trial import Trial

MANY: Final = 50
"""Crashes in a settle that cannot all come before its commit, or all after."""
AT_ONCE: Final = 5
"""Processes that start together."""
CRASHES: Final = [
    pytest.param(1, id="short", marks=pytest.mark.timeout(90)),
    pytest.param(MANY, id="long", marks=[pytest.mark.chaos, pytest.mark.timeout(3600)]),
]
RUNS: Final = {
    Point.AFTER_CLAIM: 1,
    Point.BEFORE_HANDLER: 1,
    Point.AFTER_HANDLER: 2,
    Point.AFTER_SETTLE: 1,
}
"""How often the work is done; of a crash in the settle the row tells whether it took effect."""


@pytest.mark.parametrize("crashes", CRASHES)
async def test_a_crash_at_each_point_repeats_jobs_as_predicted(trial: Trial, crashes: int) -> None:
    points = [point for _ in range(crashes) for point in Point]
    crashed: dict[int, Point] = {}
    for first in range(0, len(points), AT_ONCE):
        batch = points[first : first + AT_ONCE]
        ended = await asyncio.gather(
            *(crash(trial, point, first + place) for place, point in enumerate(batch))
        )
        crashed |= dict(zip(ended, batch, strict=True))
    held = {row.job_id: row for row in await trial.rows()}
    settled = {job_id for job_id in crashed if held[job_id].status == "SUCCESS"}

    await trial.workers(1, LEASE_SECONDS=1, HEARTBEAT_SECONDS=0.3)
    await trial.at_rest()
    in_settle = {job_id for job_id, point in crashed.items() if point is Point.IN_SETTLE}
    after_settle = {job_id for job_id, point in crashed.items() if point is Point.AFTER_SETTLE}
    trial.figures["crashes_at_each_point"] = crashes
    trial.figures["crashes_in_a_settle_that_took_effect"] = len(settled & in_settle)
    await trial.verdict()
    if crashes >= MANY:
        assert 0 < len(settled & in_settle) < crashes
    assert after_settle <= settled <= after_settle | in_settle

    done = Counter(note.job_id for note in trial.ledger.of(Event.END))
    predicted = {
        job_id: RUNS.get(point, 1 if job_id in settled else 2) for job_id, point in crashed.items()
    }
    assert {job_id: done[job_id] for job_id in crashed} == predicted
    # What the crash left running was taken over, what it left settled was not touched again.
    rows = {row.job_id: row.lease_token for row in await trial.rows()}
    assert {job_id for job_id in crashed if rows[job_id] == held[job_id].lease_token} == settled


async def crash(trial: Trial, point: Point, number: int) -> int:
    """Have a process of its own run one job, and another that ends it at the point; that job."""
    queue = f"crash-{number}"
    # The first has every connection opened and every statement prepared.
    _, job_id = await trial.enqueue("chaos.crashing", [{}, {"crash": True}], queue=queue)
    process = trial.spawn(
        module="tests.chaos.crashing",
        CRASH_AT=point,
        CRASH_SEED=f"{trial.name} {number}",
        WORKER_QUEUES=queue,
        WORKER_CONCURRENCY=1,
        LEASE_SECONDS=1,
        HEARTBEAT_SECONDS=0.3,
    )
    with trial.fault(point, process.pid):
        assert await asyncio.to_thread(process.process.wait, 60) == EXIT_CODE, process.said()
    return job_id
