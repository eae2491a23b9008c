"""Read batches with their counts."""

from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import fetch
from service.jobs.core.batch import Batch, BatchCounts
from service.jobs.store.batches import COUNTS
from service.jobs.store.statement import Statement

_OWN: Final = (
    "id", "name", "created_by", "created_at", "closed_at", "cancelled_at", "cancelled_by",
    "completed_at", "complete_job_id", "failure_job_id",
)  # fmt: skip


_NOW: Final = ", ".join(f"b.{column} + COALESCE(late.{column}, 0) AS {column}" for column in COUNTS)


_LATE: Final = f"""LEFT JOIN LATERAL (
  SELECT {
    ", ".join(
        f"sum(e.jobs) FILTER (WHERE e.status = '{status}') AS {column}"
        for column, status in COUNTS.items()
    )
}
  FROM finmind_jobs.job_endings e WHERE e.batch_id = b.id) late ON true"""


GET_BATCH: Final = Statement(f"""
SELECT {", ".join(f"b.{column}" for column in _OWN)}, {_NOW},
  (SELECT count(*) FROM finmind_jobs.jobs_live j WHERE j.batch_id = b.id AND j.status = 'RUNNING')
FROM finmind_jobs.batches b {_LATE}
WHERE b.id = :batch_id
""")
"""A batch with its counts, exact as of one moment."""


LIST_BATCHES: Final = Statement(f"""
SELECT {", ".join(f"b.{column}" for column in _OWN)}, {_NOW}, 0
FROM (
  SELECT * FROM finmind_jobs.batches
  WHERE id < :before_id AND (:created_by::text IS NULL OR created_by = :created_by::text)
    AND (NOT :unfinished::bool OR completed_at IS NULL)
  ORDER BY id DESC LIMIT :limit) b {_LATE}
ORDER BY b.id DESC
""")


async def get(session: AsyncSession, batch_id: int) -> Batch | None:
    """A batch with its counts; None where there is none."""
    rows = await fetch(session, *GET_BATCH.bind(batch_id=batch_id))
    return _batch(rows[0]) if rows else None


async def listed(
    session: AsyncSession, *, before_id: int, created_by: str | None, unfinished: bool, limit: int
) -> list[Batch]:
    """The newest batches below an id; their running members are not counted."""
    values = {"created_by": created_by, "unfinished": unfinished, "limit": limit}
    rows = await fetch(session, *LIST_BATCHES.bind(before_id=before_id, **values))
    return [_batch(row) for row in rows]


def _batch(row: Any) -> Batch:
    own: dict[str, Any] = dict(zip(_OWN, row[: len(_OWN)], strict=True))
    return Batch(**own, counts=BatchCounts(*map(int, row[len(_OWN) :])))
