"""A process that ends at any point of a job of three steps and a sleep repeats no step that is stored."""

import asyncio
from collections import Counter
from typing import Final

import pytest

from tests.chaos.crashing import EXIT_CODE
from tests.chaos.ledger import Event
from tests.chaos.step_crashing import StepPoint
from tests.chaos.trial import Trial

STEPS: Final = ("one", "two", "three")
CALLS: Final = [
    StepPoint.BEFORE_CALL,
    StepPoint.AFTER_CALL,
    StepPoint.IN_STORE,
    StepPoint.AFTER_STORE,
]
WAITS: Final = [StepPoint.IN_STORE, StepPoint.AFTER_STORE, StepPoint.AFTER_PUT_BACK]
EVERY: Final = [
    *((point, name) for name in STEPS for point in CALLS),
    *((point, "sleep") for point in WAITS),
]
SHORT: Final = [
    (StepPoint.AFTER_CALL, "one"), (StepPoint.AFTER_STORE, "two"), (StepPoint.AFTER_STORE, "sleep"),
]  # fmt: skip
AT_ONCE: Final = 5
"""Processes that start together."""


@pytest.mark.parametrize(
    "points",
    [
        pytest.param(SHORT, id="short", marks=pytest.mark.timeout(120)),
        pytest.param(EVERY * 10, id="long", marks=[pytest.mark.chaos, pytest.mark.timeout(3600)]),
    ],
)
async def test_kill_9_at_each_point_of_a_job_repeats_no_step_that_is_stored(
    trial: Trial, points: list[tuple[StepPoint, str]]
) -> None:
    crashed: dict[int, tuple[StepPoint, str]] = {}
    for first in range(0, len(points), AT_ONCE):
        batch = points[first : first + AT_ONCE]
        ended = await asyncio.gather(
            *(crash(trial, *point, first + place) for place, point in enumerate(batch))
        )
        crashed |= dict(zip(ended, batch, strict=True))
    connection = await trial.connect()
    stored = await connection.fetch("SELECT job_id, name, wait_until FROM job_steps")
    await trial.workers(1, LEASE_SECONDS=1, HEARTBEAT_SECONDS=0.3)
    await trial.at_rest()
    kept = set(await connection.fetch("SELECT job_id, name, wait_until FROM job_steps"))
    await connection.close()
    await trial.verdict()

    assert {(row[0], row[1]) for row in kept} == {
        (job_id, name) for job_id in crashed for name in (*STEPS, "sleep")
    }
    # What a crash left stored was not stored again, and no sleep began anew.
    assert {tuple(row) for row in stored} <= {tuple(row) for row in kept}
    there = {(row[0], row[1]) for row in stored}
    calls = Counter((note.job_id, note.detail) for note in trial.ledger.of(Event.STEP))
    for job_id, (point, name) in crashed.items():
        for step in STEPS:
            uncertain = step == name and point in {StepPoint.AFTER_CALL, StepPoint.IN_STORE}
            twice = uncertain and (job_id, step) not in there
            assert calls[job_id, step] == 1 + twice, (point, name, step)


async def crash(trial: Trial, point: StepPoint, name: str, number: int) -> int:
    """Have a process of its own run one job, and end at the point of the step; that job."""
    queue = f"crash-{number}"
    (job_id,) = await trial.enqueue("chaos.steps", [{}], queue=queue)
    process = trial.spawn(
        module="tests.chaos.step_crashing",
        CRASH_AT=point,
        CRASH_STEP=name,
        CRASH_SEED=f"{trial.name} {number}",
        WORKER_QUEUES=queue,
        WORKER_CONCURRENCY=1,
        LEASE_SECONDS=1,
        HEARTBEAT_SECONDS=0.3,
    )
    with trial.fault(point, process.pid):
        assert await asyncio.to_thread(process.process.wait, 60) == EXIT_CODE, process.said()
    return job_id
