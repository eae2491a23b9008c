"""Look at jobs that clients follow: a statement for all of a process, not one for each client."""

from collections.abc import Collection, Sequence
from typing import Any, Final

from service.db.connection import Link
from service.jobs.core.job import JobId
from service.jobs.store.fragments import ID_BY_PRIMARY_KEY, readable
from service.jobs.store.job_logs import COLUMNS
from service.jobs.store.statement import Statement

MAX_TEXT: Final = 16_384
"""Plain SQL may have written longer errors and progress: those are cut, and left out."""

_STATE: Final = f"""b.id, b.status, b.attempts, {readable("next_run_at")}, {readable("started_at")},
  {readable("finished_at")}, held_for, cancel IS NOT NULL, left(last_error, {MAX_TEXT}),
  CASE WHEN pg_column_size(progress) <= {MAX_TEXT} THEN progress::text END,
  date_part('epoch', clock_timestamp() - finished_at)"""

STILL_LIVE: Final = Statement(f"""
SELECT b.id FROM unnest(:ids::bigint[]) AS r(id) JOIN finmind_jobs.jobs_live b ON {ID_BY_PRIMARY_KEY}
""")
"""Which of them have not ended. Those that have would be looked for in the partition of every day."""

LIVE_STATES: Final = Statement(f"""
SELECT {_STATE} FROM unnest(:ids::bigint[]) AS r(id)
JOIN finmind_jobs.jobs_live b ON {ID_BY_PRIMARY_KEY}
""")

STATES: Final = Statement(f"""
SELECT s.* FROM unnest(:ids::bigint[]) AS r(id) CROSS JOIN LATERAL (
  SELECT {_STATE} FROM finmind_jobs.background_jobs b WHERE b.id = r.id LIMIT 1) s
""")
"""Of jobs that are not live, as a rule. The limit makes it probe, as in `settle.SETTLED_BEFORE`."""

NEW_LOG_LINES: Final = Statement(f"""
SELECT r.reader, l.* FROM unnest(:ids::bigint[], :tokens::bigint[], :lines::int[])
  WITH ORDINALITY AS r(id, token, line, reader)
CROSS JOIN LATERAL (
  SELECT {COLUMNS} FROM finmind_jobs.job_logs k
  WHERE k.job_id = r.id AND (k.lease_token, k.line) > (r.token, r.line)
  ORDER BY k.lease_token, k.line LIMIT :limit) l
""")
"""What was logged about each job after a position, in order; with the place of the job in the arrays."""


async def still_live(link: Link, ids: Collection[JobId]) -> set[JobId]:
    """Which of these jobs have neither ended nor been deleted."""
    rows = await link.fetch(*STILL_LIVE.bind(ids=list(ids)))
    return {row[0] for row in rows}


async def states(link: Link, ids: Collection[JobId]) -> list[Any]:
    """How these jobs stand, a row each; none of those that were deleted."""
    live = await link.fetch(*LIVE_STATES.bind(ids=list(ids)))
    others = set(ids) - {row[0] for row in live}
    return [*live, *(await link.fetch(*STATES.bind(ids=list(others))) if others else ())]


async def new_log_lines(
    link: Link, positions: Sequence[tuple[JobId, int, int]], *, limit: int
) -> list[Any]:
    """Up to `limit` lines after each of these: job, lease token, line."""
    return await link.fetch(
        *NEW_LOG_LINES.bind(
            ids=[job_id for job_id, _, _ in positions],
            tokens=[token for _, token, _ in positions],
            lines=[line for _, _, line in positions],
            limit=limit,
        )
    )
