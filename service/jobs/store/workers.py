"""Register workers, and note that they live."""

from collections.abc import Collection
from typing import Final, TypedDict, Unpack

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.connection import Link
from service.jobs.store.statement import Statement

REGISTER_WORKER: Final = Statement("""
INSERT INTO finmind_jobs.job_workers (name, queues, job_types, concurrency, version)
VALUES (:name, :queues::text[], :job_types::text[], :concurrency, :version)
RETURNING id, extract(epoch FROM now())::float8
""")


WORKER_SEEN: Final = Statement("""
WITH seen AS (
  UPDATE finmind_jobs.job_workers SET seen_at = now(), job_types = :job_types::text[]
  WHERE id = :worker_id AND name = :name RETURNING id),
entered AS (
  INSERT INTO finmind_jobs.job_workers (name, queues, job_types, concurrency, version)
  SELECT :name, :queues::text[], :job_types::text[], :concurrency, :version
  WHERE NOT EXISTS (SELECT FROM seen) RETURNING id)
SELECT id FROM seen UNION ALL SELECT id FROM entered
""")
"""The worker lives, and what it serves by now. Where its row is gone (a restore, a fail-over to a
standby that was behind, a day asleep) it enters anew: its old id may be another's by then."""


FORGET_WORKER: Final = Statement("DELETE FROM finmind_jobs.job_workers WHERE id = :worker_id")


WORKER_STOPPED: Final = Statement(
    "UPDATE finmind_jobs.job_workers SET seen_at = now(), stopped_at = now() WHERE id = :worker_id"
)


class WorkerEntry(TypedDict):
    """What others are told of a worker."""

    name: str
    queues: list[str]
    job_types: list[str]
    concurrency: int
    version: str


async def register(link: Link, **entry: Unpack[WorkerEntry]) -> tuple[int, float]:
    """Enter a worker; its id, and what time it is by the database's clock, epoch seconds."""
    rows = await link.fetch(*REGISTER_WORKER.bind(**entry))
    worker_id, now = rows[0]
    return worker_id, now


async def seen(link: Link, worker_id: int, **entry: Unpack[WorkerEntry]) -> int:
    """Tell that the worker lives and what it serves; its id, another one if its row was gone."""
    rows = await link.fetch(*WORKER_SEEN.bind(worker_id=worker_id, **entry))
    seen: int = rows[0][0]
    return seen


async def stopped(link: Link, worker_id: int, *, forget: bool) -> None:
    """Tell that the worker stopped in good order; with `forget` as if it had never been."""
    statement = FORGET_WORKER if forget else WORKER_STOPPED
    await link.fetch(*statement.bind(worker_id=worker_id))


_NAME_OF: Final = text("SELECT name FROM finmind_jobs.job_workers WHERE id = :id")


async def name_of(session: AsyncSession, worker_id: int) -> str | None:
    """The name of a worker; None where it is forgotten."""
    name: str | None = await session.scalar(_NAME_OF, {"id": worker_id})
    return name


_UNSERVED: Final = text("""
    SELECT asked.job_type, asked.queue, EXISTS (
      SELECT FROM finmind_jobs.job_workers w WHERE asked.job_type = ANY (w.job_types)
        AND w.stopped_at IS NULL AND w.seen_at > now() - make_interval(secs => :alive)
    ) AS type_is_served
    FROM unnest(CAST(:types AS text[]), CAST(:queues AS text[])) AS asked (job_type, queue)
    WHERE NOT EXISTS (
      SELECT FROM finmind_jobs.job_workers w WHERE asked.job_type = ANY (w.job_types)
        AND EXISTS (SELECT FROM unnest(w.queues) q WHERE split_part(q, ':', 1) IN ('*', asked.queue))
        AND w.stopped_at IS NULL AND w.seen_at > now() - make_interval(secs => :alive))""")


async def unserved(
    session: AsyncSession, pairs: Collection[tuple[str, str]], *, alive_seconds: float
) -> dict[tuple[str, str], bool]:
    """Which pairs of job type and queue no worker serves, seen within `alive_seconds`.

    True: some worker serves the type, in other queues.
    """
    types, queues = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    rows = await session.execute(
        _UNSERVED, {"types": types, "queues": queues, "alive": alive_seconds}
    )
    return {(row.job_type, row.queue): row.type_is_served for row in rows}
