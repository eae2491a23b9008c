"""The gauges of queues, which the maintenance leader sets and nobody else."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from service.observability.labels import MAX_LABEL_VALUES, OTHER, known_queue
from service.observability.metrics import (
    JOBS_HELD,
    QUEUE_DEPTH,
    QUEUE_MAX_RUNNING,
    QUEUE_OLDEST_DUE,
    QUEUE_PAUSED,
    QUEUE_PERMITS,
    QUEUE_RUNNING,
    WAITING_FOR_WORKER,
)


@dataclass(frozen=True, slots=True)
class QueueReading:
    """What the leader read of one queue."""

    queue: str
    depth: int
    running: int
    oldest_due_seconds: float


_shown_queues: set[str] = set()


def set_queue_gauges(rows: Iterable[QueueReading]) -> None:
    """Show these queues and no others; those beyond the limit are summed up as `other`.

    Configured and served queues come first, then those with most jobs: a flood of names from a client
    hides no queue that the service serves.
    """
    named = known_queue.reserved
    readings = sorted(rows, key=lambda row: (row.queue not in named, -row.depth - row.running))
    merged: dict[str, QueueReading] = {}
    for position, row in enumerate(readings):
        shown = row.queue in named or position < MAX_LABEL_VALUES
        name = row.queue if shown else OTHER
        before = merged.get(name, QueueReading(name, 0, 0, 0.0))
        merged[name] = QueueReading(
            name,
            before.depth + row.depth,
            before.running + row.running,
            max(before.oldest_due_seconds, row.oldest_due_seconds),
        )
    for vanished in _shown_queues - merged.keys():
        for gauge in (QUEUE_DEPTH, QUEUE_OLDEST_DUE, QUEUE_RUNNING):
            gauge.remove(vanished)
    for name, reading in merged.items():
        QUEUE_DEPTH.labels(name).set(reading.depth)
        QUEUE_OLDEST_DUE.labels(name).set(reading.oldest_due_seconds)
        QUEUE_RUNNING.labels(name).set(reading.running)
    _shown_queues.clear()
    _shown_queues.update(merged)


def set_paused_gauges(queues: Iterable[str]) -> None:
    """Show that these queues are paused, and no others; those beyond the limit are not shown."""
    QUEUE_PAUSED.clear()
    for queue in sorted(queues)[:MAX_LABEL_VALUES]:
        QUEUE_PAUSED.labels(queue).set(1)


def set_held_gauges(jobs: Mapping[str, int]) -> None:
    """Show how many jobs are held, by what they wait for, and nothing else."""
    JOBS_HELD.clear()
    for reason, count in jobs.items():
        JOBS_HELD.labels(reason).set(count)


def set_permit_gauges(queues: Mapping[str, tuple[int, int]]) -> None:
    """Show the limit on running jobs of these queues and its permits in use, and of no others."""
    QUEUE_MAX_RUNNING.clear()
    QUEUE_PERMITS.clear()
    for queue, (limit, used) in sorted(queues.items())[:MAX_LABEL_VALUES]:
        QUEUE_MAX_RUNNING.labels(queue).set(limit)
        QUEUE_PERMITS.labels(queue).set(used)


def set_waiting_gauges(jobs: Mapping[str, int]) -> None:
    """Show how many jobs of these types wait for a worker, and of no others."""
    WAITING_FOR_WORKER.clear()
    for job_type, count in sorted(jobs.items())[:MAX_LABEL_VALUES]:
        WAITING_FOR_WORKER.labels(job_type).set(count)


def clear_queue_gauges() -> None:
    """Show no queue: this process is no longer the leader, and only the leader's figures are current."""
    set_queue_gauges(())
