"""Workers are killed between the end of a parent and the start of its children: none is lost or early."""

import asyncio

import pytest

from tests.chaos.crashing import EXIT_CODE, Point
from tests.chaos.ledger import Event
from tests.chaos.trial import Trial

pytestmark = pytest.mark.timeout(150)

LEASES = {"LEASE_SECONDS": 1, "HEARTBEAT_SECONDS": 0.3, "MAINTENANCE_SECONDS": 0.3}
CHAINS = 40
PARENTS = 5


async def ends_come_before_starts(trial: Trial, families: dict[int, list[int]]) -> None:
    """Each child began after the last end of all its parents, and ended SUCCESS."""
    ended = {note.job_id: note.at for note in reversed(trial.ledger.of(Event.END))}
    for child, parents in families.items():
        starts = [note.at for note in trial.ledger.of(Event.START) if note.job_id == child]
        assert starts, f"job {child} never began"
        assert min(starts) > max(ended[parent] for parent in parents), child
    assert {row.status for row in await trial.rows()} == {"SUCCESS"}


async def test_a_crash_between_a_settle_and_what_follows_leaves_the_children_to_others(
    trial: Trial,
) -> None:
    queue = "crash"
    _, parent = await trial.enqueue("chaos.crashing", [{}, {"crash": True}], queue=queue)
    children = await trial.enqueue("chaos.steady", [{"seconds": 0.0}] * 20, after=[parent])
    process = trial.spawn(
        module="tests.chaos.crashing", CRASH_AT=Point.AFTER_SETTLE, CRASH_SEED="1",
        WORKER_QUEUES=queue, WORKER_CONCURRENCY=1, **LEASES,
    )  # fmt: skip
    with trial.fault(Point.AFTER_SETTLE, process.pid):
        assert await asyncio.to_thread(process.process.wait, 60) == EXIT_CODE, process.said()
    connection = await trial.connect()
    assert await connection.fetchval("SELECT count(*) FROM job_endings") == 1
    assert await connection.fetchval("SELECT count(*) FROM jobs_live") == len(children)
    await trial.workers(2, **LEASES)
    await trial.at_rest()
    await ends_come_before_starts(trial, {child: [parent] for child in children})
    assert await connection.fetchval("SELECT count(*) FROM job_dependencies WHERE met") == 20
    await connection.close()
    await trial.verdict()


async def test_kill_9_of_one_of_three_workers_neither_loses_nor_hastens_a_child(
    trial: Trial,
) -> None:
    workers = await trial.workers(3, **LEASES)
    families: dict[int, list[int]] = {}
    for _ in range(CHAINS):
        parents = await trial.enqueue("chaos.steady", [{"seconds": 0.05}] * PARENTS)
        [child] = await trial.enqueue("chaos.steady", [{"seconds": 0.02}], after=parents)
        [last] = await trial.enqueue("chaos.steady", [{"seconds": 0.0}], after=[child])
        families |= {child: parents, last: [child]}
        if len(families) == CHAINS:
            trial.kill(workers.pop())
    await trial.at_rest()
    await ends_come_before_starts(trial, families)
    await trial.verdict()
