"""Write and read what handlers logged about their jobs."""

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.connection import Link
from service.db.session import fetch
from service.jobs.core.claimed_job import Lease
from service.jobs.core.job import JobId
from service.jobs.core.log_line import LogLine
from service.jobs.store.leases import lease_columns
from service.jobs.store.statement import Statement

KEPT_ATTEMPTS: Final = 3
"""Attempts of a job whose lines are kept: the newest that have logged."""

WRITE_LOG_LINES: Final = Statement("""
WITH too_old AS (
  DELETE FROM finmind_jobs.job_logs l
  USING unnest(:begun::bigint[]) AS b(job_id), LATERAL (
    SELECT min(lease_token) AS first FROM (
      SELECT DISTINCT lease_token FROM finmind_jobs.job_logs k WHERE k.job_id = b.job_id
      ORDER BY lease_token DESC LIMIT :others) newest) kept
  WHERE l.job_id = b.job_id AND l.lease_token < kept.first)
INSERT INTO finmind_jobs.job_logs (job_id, lease_token, line, attempt, at, level, message, fields)
SELECT job_id, lease_token, line, attempt, at, level, message, fields::json
FROM unnest(:job_ids::bigint[], :tokens::bigint[], :lines::int[], :attempts::int[],
  :ats::timestamptz[], :levels::text[], :messages::text[], :fields::text[])
  AS r(job_id, lease_token, line, attempt, at, level, message, fields)
ON CONFLICT DO NOTHING
""")
"""An attempt that begins to log drops the lines of all but the newest of the attempts before it. Where
the answer was lost, the same lines are sent again and are there already."""

COLUMNS: Final = "lease_token, line, attempt, at, level, message, fields::text"

LOG_SIZES: Final = Statement("""
SELECT l.job_id, l.lease_token,
  sum(octet_length(l.message) + COALESCE(octet_length(l.fields::text), 0))::bigint
FROM finmind_jobs.job_logs l
WHERE (l.job_id, l.lease_token) IN (SELECT * FROM unnest(:ids::bigint[], :tokens::bigint[]))
GROUP BY 1, 2
""")

READ_LOG_LINES: Final = Statement(f"""
SELECT {COLUMNS} FROM finmind_jobs.job_logs
WHERE job_id = :job_id AND (lease_token, line) > (:token::bigint, :line::int)
ORDER BY lease_token, line LIMIT :limit
""")

READ_LAST_LOG_LINES: Final = Statement(f"""
SELECT {COLUMNS} FROM finmind_jobs.job_logs
WHERE job_id = :job_id ORDER BY lease_token DESC, line DESC LIMIT :limit
""")

DELETE_LOG_LINES: Final = Statement(
    "DELETE FROM finmind_jobs.job_logs WHERE job_id = ANY (:job_ids::bigint[])"
)


async def write(link: Link, lines: Sequence[LogLine]) -> None:
    """Write lines of any jobs; those of attempts that are over, too: nothing else depends on them."""
    await link.fetch(
        *WRITE_LOG_LINES.bind(
            begun=[one.job_id for one in lines if one.line == 1],
            others=KEPT_ATTEMPTS - 1,
            job_ids=[one.job_id for one in lines],
            tokens=[one.lease_token for one in lines],
            lines=[one.line for one in lines],
            attempts=[one.attempt for one in lines],
            ats=[one.at for one in lines],
            levels=[one.level for one in lines],
            messages=[one.message for one in lines],
            fields=[one.fields for one in lines],
        )
    )


async def sizes(link: Link, leases: Collection[Lease]) -> dict[Lease, int]:
    """How many bytes the attempts under these leases have logged, of those that have logged any."""
    rows = await link.fetch(*LOG_SIZES.bind(**lease_columns(leases)))
    return {(row[0], row[1]): row[2] for row in rows}


async def after(
    session: AsyncSession, job_id: JobId, *, token: int, line: int, limit: int
) -> Sequence[Any]:
    """Lines of a job that come after one, in order."""
    bound = READ_LOG_LINES.bind(job_id=job_id, token=token, line=line, limit=limit)
    return await fetch(session, *bound)


async def last(session: AsyncSession, job_id: JobId, *, limit: int) -> Sequence[Any]:
    """The last lines of a job, the newest first."""
    return await fetch(session, *READ_LAST_LOG_LINES.bind(job_id=job_id, limit=limit))


async def delete(session: AsyncSession, job_ids: Collection[JobId]) -> None:
    """Delete what was logged about jobs."""
    await fetch(session, *DELETE_LOG_LINES.bind(job_ids=list(job_ids)))
