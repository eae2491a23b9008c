"""Register workers that claim over HTTP, and note that they live."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.connection import Link
from service.db.session import fetch
from service.jobs.store.statement import Statement

ENTER_REMOTE_WORKER: Final = Statement("""
INSERT INTO finmind_jobs.job_workers AS w
  (owner, name, queues, job_types, concurrency, version, policies)
VALUES (:owner, :name, :queues::text[], :job_types::text[], :concurrency, :version, :policies::jsonb)
ON CONFLICT (owner, name) WHERE owner IS NOT NULL DO UPDATE SET
  queues = CASE WHEN :anew OR w.stopped_at IS NOT NULL THEN EXCLUDED.queues
    ELSE ARRAY(SELECT DISTINCT q FROM unnest(w.queues || EXCLUDED.queues) q ORDER BY q LIMIT :names) END,
  job_types = CASE WHEN :anew OR w.stopped_at IS NOT NULL THEN EXCLUDED.job_types
    ELSE ARRAY(SELECT DISTINCT t FROM unnest(w.job_types || EXCLUDED.job_types) t ORDER BY t LIMIT :names)
    END,
  concurrency = CASE WHEN :anew OR w.stopped_at IS NOT NULL THEN EXCLUDED.concurrency
    ELSE greatest(w.concurrency, EXCLUDED.concurrency) END,
  version = CASE WHEN :anew THEN EXCLUDED.version ELSE w.version END,
  policies = CASE WHEN :anew THEN EXCLUDED.policies ELSE w.policies END,
  started_at = CASE WHEN :anew OR w.stopped_at IS NOT NULL THEN now() ELSE w.started_at END,
  drain_asked_at = CASE WHEN :anew THEN NULL ELSE w.drain_asked_at END,
  seen_at = now(), stopped_at = NULL
RETURNING id, policies::text, drain_asked_at IS NOT NULL
""")
"""A worker begins (`:anew`), or claims: then what it claims is added to what it is known to serve."""

MAX_NAMES: Final = 1000
"""Types and queues that a worker is known to serve."""

REMOTE_WORKER_SEEN: Final = Statement("""
UPDATE finmind_jobs.job_workers SET seen_at = now(), stopped_at = NULL
WHERE owner = :owner AND name = :name RETURNING drain_asked_at IS NOT NULL
""")

REMOTE_WORKERS_WAITING: Final = Statement(
    "UPDATE finmind_jobs.job_workers SET seen_at = now() WHERE id = ANY (:ids::bigint[])"
    " RETURNING id, drain_asked_at IS NOT NULL"
)

REMOTE_WORKER_STOPPED: Final = Statement("""
UPDATE finmind_jobs.job_workers SET seen_at = now(), stopped_at = now()
WHERE owner = :owner AND name = :name RETURNING id
""")


ASK_DRAIN: Final = Statement("""
UPDATE finmind_jobs.job_workers SET drain_asked_at = COALESCE(drain_asked_at, now())
WHERE id = :worker_id AND owner IS NOT NULL AND stopped_at IS NULL
RETURNING id, name, owner, drain_asked_at, drain_asked_at = now() AS changed
""")


class Draining(NamedTuple):
    """A worker that is to claim no more."""

    id: int
    name: str
    owner: str
    drain_asked_at: datetime
    changed: bool
    """Whether nobody had asked for it before."""


class RemoteWorker(NamedTuple):
    """A worker that claims over HTTP, as it is known."""

    id: int
    policies: str | None
    """JSON text: what it registered, by job type."""
    draining: bool
    """Whether somebody asked it to claim no more."""


async def enter(
    link: Link,
    *,
    owner: str,
    name: str,
    queues: Sequence[str],
    job_types: Sequence[str],
    concurrency: int,
    version: str | None = None,
    policies: str | None = None,
    anew: bool,
) -> RemoteWorker:
    """Enter a worker, or tell that it lives and what it serves.

    Args:
        link: the connection.
        owner: whose name it is: two callers may use the same.
        name: its own.
        queues: the queues that it serves; `*` for all.
        job_types: the types.
        concurrency: how many jobs it runs at once.
        version: its own, for people to read.
        policies: JSON text, by job type.
        anew: whether it begins: what was registered before is over.
    """
    rows = await link.fetch(
        *ENTER_REMOTE_WORKER.bind(
            owner=owner, name=name, queues=queues, job_types=job_types, concurrency=concurrency,
            version=version, policies=policies, anew=anew, names=MAX_NAMES,
        )
    )  # fmt: skip
    return RemoteWorker(*rows[0])


async def seen(link: Link, *, owner: str, name: str) -> bool:
    """Tell that a worker lives; whether somebody asked it to claim no more."""
    rows = await link.fetch(*REMOTE_WORKER_SEEN.bind(owner=owner, name=name))
    return bool(rows and rows[0][0])


async def waiting(link: Link, ids: Collection[int]) -> set[int]:
    """Tell that these workers wait for jobs; those that somebody asked to claim no more."""
    rows = await link.fetch(*REMOTE_WORKERS_WAITING.bind(ids=sorted(ids)))
    return {row[0] for row in rows if row[1]}


async def stopped(link: Link, *, owner: str, name: str) -> int | None:
    """Tell that a worker stopped in good order; its id, None where it is not known."""
    rows = await link.fetch(*REMOTE_WORKER_STOPPED.bind(owner=owner, name=name))
    return rows[0][0] if rows else None


async def ask_drain(session: AsyncSession, worker_id: int) -> Draining | None:
    """Have a worker over HTTP claim no more; None where there is none of that id, or it has stopped."""
    rows = await fetch(session, *ASK_DRAIN.bind(worker_id=worker_id))
    return Draining(*rows[0]) if rows else None
