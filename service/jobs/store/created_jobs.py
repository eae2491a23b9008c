"""Count new jobs by their ids."""

from collections.abc import Sequence
from typing import Final

from service.db.connection import Link
from service.jobs.store.statement import Statement

CREATED_IDS: Final = Statement("""
SELECT COALESCE(pg_sequence_last_value('finmind_jobs.background_job_ids'::regclass), 0),
  pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint
FROM pg_current_snapshot() s
""")
"""The newest id that was given out, the oldest transaction that still writes, and the next one."""


NEWEST_AND_LIVE: Final = Statement("""
SELECT COALESCE(pg_sequence_last_value('finmind_jobs.background_job_ids'::regclass), 0),
  (SELECT id FROM finmind_jobs.jobs_live ORDER BY id DESC LIMIT 1) IS NOT NULL
""")
"""By the primary key: a table that a million jobs have just left is not read to its end."""


CREATED_BETWEEN: Final = Statement("""
SELECT b.job_type, count(*) FROM unnest(:after::bigint[], :up_to::bigint[]) AS c(after, up_to)
CROSS JOIN LATERAL (
  SELECT j.job_type FROM finmind_jobs.background_jobs j WHERE j.id > c.after AND j.id <= c.up_to) b
GROUP BY 1
""")


async def ids(link: Link) -> tuple[int, int, int]:
    """The newest id given out, the oldest transaction that still writes, and the next one."""
    newest, oldest_writer, next_writer = (await link.fetch(*CREATED_IDS.bind()))[0]
    return newest, oldest_writer, next_writer


async def newest(link: Link) -> tuple[int, bool]:
    """The newest id given out, and whether any job is live."""
    newest_id, live = (await link.fetch(*NEWEST_AND_LIVE.bind()))[0]
    return newest_id, live


async def between(link: Link, stretches: Sequence[tuple[int, int]]) -> dict[str, int]:
    """How many jobs of each type have an id above the first and up to the second of each pair."""
    rows = await link.fetch(
        *CREATED_BETWEEN.bind(
            after=[low for low, _ in stretches], up_to=[high for _, high in stretches]
        )
    )
    return {row[0]: row[1] for row in rows}
