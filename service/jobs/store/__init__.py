"""Every SQL statement of the engine, each beside the call that runs it."""

from service.jobs.store import (
    actions,
    claim,
    counts,
    enqueue,
    idempotency,
    lanes,
    leadership,
    leases,
    listing,
    notify,
    partitions,
    retention,
    served_types,
    settle,
    statistics,
    workers,
)

__all__ = [
    "actions",
    "claim",
    "counts",
    "enqueue",
    "idempotency",
    "lanes",
    "leadership",
    "leases",
    "listing",
    "notify",
    "partitions",
    "retention",
    "served_types",
    "settle",
    "statistics",
    "workers",
]
