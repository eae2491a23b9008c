"""Compare requests with the jobs that hold their unique keys."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs.core.job import JobId

# Compared as jsonb: the order of keys and the spelling of numbers make no difference.
_COMPARE: Final = text("""
    SELECT asked.position, job.id IS NOT NULL AS found,
      job.job_type = asked.job_type AND job.payload = asked.payload::jsonb AS same,
      job.enqueued_by <> CAST(:reader AS text) IS TRUE AS of_another
    FROM unnest(CAST(:positions AS int[]), CAST(:ids AS bigint[]), CAST(:job_types AS text[]),
                CAST(:payloads AS text[])) AS asked(position, id, job_type, payload)
    LEFT JOIN finmind_jobs.background_jobs AS job ON job.id = asked.id
    ORDER BY asked.position""")


async def compare(
    session: AsyncSession,
    *,
    reader: str | None,
    positions: list[int],
    ids: list[JobId],
    job_types: list[str],
    payloads: list[str],
) -> Sequence[Any]:
    """Compare what was asked for with the jobs of these ids.

    Returns:
        Rows of position, found, same (type and payload), of_another (caller than `reader`).
    """
    values = {
        "reader": reader,
        "positions": positions,
        "ids": ids,
        "job_types": job_types,
        "payloads": payloads,
    }
    return (await session.execute(_COMPARE, values)).all()
