"""Read the newest entries of a job's history."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs.core.job import JobId

MAX_STORED_BYTES: Final = 1_000_000
"""The largest history, as stored, that is taken apart; of a larger one the last entry is read alone."""

_NEWEST: Final = text("""
    SELECT left(entry, :max_entry_chars) AS text, length(entry) AS length, older
    FROM (
      SELECT n, entry, count - n AS newer, total - 1 - (count - n) AS older,
        sum(length(entry)) OVER (ORDER BY n DESC) - length(entry) AS chars_newer
      FROM (
        SELECT n, count(*) OVER () AS count,
          CASE jsonb_typeof(b.errors) WHEN 'array' THEN jsonb_array_length(b.errors) ELSE 1 END AS total,
          CASE
          WHEN length(e::text) > :max_entry_chars AND jsonb_typeof(e) = 'object'
          THEN (e - 'payload_before')::text ELSE e::text END AS entry
        FROM finmind_jobs.background_jobs b CROSS JOIN LATERAL jsonb_array_elements(CASE
          WHEN jsonb_typeof(b.errors) <> 'array' THEN jsonb_build_array(b.errors)
          WHEN pg_column_size(b.errors) > :max_bytes THEN jsonb_build_array(b.errors -> -1)
          ELSE b.errors END) WITH ORDINALITY AS entries(e, n)
        WHERE b.id = :job_id
      ) AS entries
    ) AS entries
    WHERE chars_newer < :max_chars OR newer = 0
    ORDER BY n""")


async def newest(
    session: AsyncSession, job_id: JobId, *, max_chars: int, max_entry_chars: int
) -> Sequence[Row[Any]]:
    """`text`, `length` and how many `older` ones there are of each entry, oldest first."""
    values = {
        "job_id": job_id,
        "max_chars": max_chars,
        "max_entry_chars": max_entry_chars,
        "max_bytes": MAX_STORED_BYTES,
    }
    return (await session.execute(_NEWEST, values)).all()
