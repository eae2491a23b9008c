"""Read the gauges of the queues."""

from collections import Counter
from collections.abc import Sequence

from service.db.connection import Link
from service.jobs import store
from service.jobs.core.lane import MAX_LANES, LaneHead
from service.jobs.read.waiting import reason_of_hold
from service.observability.labels import known_queue
from service.observability.queue_gauges import (
    QueueReading,
    set_held_gauges,
    set_permit_gauges,
    set_queue_gauges,
)


async def read_queue_gauges(link: Link, heads: Sequence[LaneHead], *, cap: int) -> None:
    """Set due jobs, running jobs and the age of the oldest, by queue.

    Args:
        link: the connection to use.
        heads: the first lanes.
        cap: limit on the jobs counted in each lane.
    """
    # The queues that somebody serves by name: many others may come before them in the list.
    known_queue.reserve(await store.gauges.served_queues(link, limit=MAX_LANES))
    served = await store.lanes.of_queues(link, sorted(known_queue.reserved)[:MAX_LANES])
    lanes = list({head.lane: head for head in (*heads, *served)}.values())
    rows = await store.gauges.of_queues(link, lanes, cap=cap) if lanes else ()
    set_queue_gauges(QueueReading(*row) for row in rows)


async def read_held_gauges(link: Link, *, cap: int) -> None:
    """Set how many jobs are held, by what they wait for; `cap` of them are counted."""
    held: Counter[str] = Counter()
    for word, jobs in (await store.gauges.held(link, cap=cap)).items():
        held[reason_of_hold(word)] += jobs
    set_held_gauges(held)


async def read_permit_gauges(link: Link) -> None:
    """Set the limits on running jobs of queues, and how many permits are in use."""
    set_permit_gauges(await store.gauges.permits(link))
