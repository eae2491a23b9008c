"""Extend leases."""

from collections.abc import Iterable
from typing import Final

from service.db.connection import Link
from service.jobs.core.claimed_job import Lease
from service.jobs.store.fragments import LEASE_HOLDS
from service.jobs.store.statement import Transition

EXTEND: Final = Transition(f"""
UPDATE finmind_jobs.jobs_live b SET lease_until = now() + make_interval(secs => :lease_seconds)
FROM unnest(:ids::bigint[], :tokens::bigint[]) AS r(id, token)
WHERE {LEASE_HOLDS}
RETURNING b.id, b.lease_token, b.cancel IS NOT NULL
""")


async def extend(link: Link, leases: Iterable[Lease], *, lease_seconds: float) -> dict[Lease, bool]:
    """Extend leases; those that still held, each with whether somebody asked for the job's cancel."""
    rows = await link.fetch(*EXTEND.bind(**lease_columns(leases), lease_seconds=lease_seconds))
    return {(row[0], row[1]): row[2] for row in rows}


def lease_columns(leases: Iterable[Lease]) -> dict[str, list[int]]:
    """Their `ids` and `tokens`, in the order of ids: rows are locked in the order of the arrays."""
    pairs = sorted(leases)
    return {"ids": [job_id for job_id, _ in pairs], "tokens": [token for _, token in pairs]}
