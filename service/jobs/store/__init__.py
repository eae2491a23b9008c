"""Every SQL statement of the engine, each beside the call that runs it."""

from service.jobs.store import (
    actions,
    claim,
    counts,
    enqueue,
    lanes,
    leadership,
    leases,
    notify,
    partitions,
    retention,
    served_types,
    settle,
    workers,
)

__all__ = [
    "actions",
    "claim",
    "counts",
    "enqueue",
    "lanes",
    "leadership",
    "leases",
    "notify",
    "partitions",
    "retention",
    "served_types",
    "settle",
    "workers",
]
