"""Read the gauges of the queues."""

from collections.abc import Sequence

from service.db.connection import Link
from service.jobs import store
from service.jobs.core.lane import MAX_LANES, LaneHead
from service.observability.labels import known_queue
from service.observability.queue_gauges import QueueReading, set_queue_gauges


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
