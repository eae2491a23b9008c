"""Record how far running jobs are."""

from collections.abc import Mapping
from typing import Final

from service.db.connection import Link
from service.jobs.core.claimed_job import Lease
from service.jobs.store.fragments import ID_BY_PRIMARY_KEY
from service.jobs.store.leases import lease_columns
from service.jobs.store.statement import Statement

PROGRESS: Final = Statement(f"""
UPDATE finmind_jobs.jobs_live b SET progress = r.progress::jsonb
FROM unnest(:ids::bigint[], :tokens::bigint[], :progress::text[]) AS r(id, token, progress)
WHERE {ID_BY_PRIMARY_KEY} AND b.lease_token = r.token AND b.status = 'RUNNING'
RETURNING b.id, b.lease_token
""")


async def write(link: Link, progress: Mapping[Lease, str]) -> set[Lease]:
    """Record how far jobs are (JSON text); the leases that still held."""
    ordered = sorted(progress.items())
    rows = await link.fetch(
        *PROGRESS.bind(**lease_columns(progress), progress=[text for _, text in ordered])
    )
    return {(row[0], row[1]) for row in rows}
