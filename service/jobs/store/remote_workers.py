"""Register workers that claim over HTTP, and note that they live."""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeAlias, TypedDict

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.connection import Link
from service.db.session import fetch
from service.jobs.store.statement import Statement

ENTER_REMOTE_WORKERS: Final = Statement("""
INSERT INTO finmind_jobs.job_workers AS w
  (owner, name, queues, job_types, concurrency, version, policies)
SELECT e.owner, e.name, ARRAY(SELECT jsonb_array_elements_text(e.queues)),
  ARRAY(SELECT jsonb_array_elements_text(e.job_types)), e.concurrency, e.version, e.policies
FROM jsonb_to_recordset(:entries::text::jsonb) AS e(owner text, name text, queues jsonb, job_types jsonb,
  concurrency integer, version text, policies jsonb)
ORDER BY e.owner, e.name
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
RETURNING owner, name, id, policies::text, drain_asked_at IS NOT NULL
""")
"""Workers begin (`:anew`), or claim: then what they claim is added to what they are known to serve. Many
with one commit: thousands come at once when a process is restarted."""

MAX_NAMES: Final = 1000
"""Types and queues that a worker is known to serve."""

REMOTE_WORKERS_SEEN: Final = Statement("""
UPDATE finmind_jobs.job_workers w SET seen_at = now(), stopped_at = NULL
FROM unnest(:owners::text[], :names::text[]) AS r(owner, name)
WHERE w.owner = r.owner AND w.name = r.name
RETURNING w.owner, w.name, w.drain_asked_at IS NOT NULL
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


class Entry(TypedDict):
    """What a worker tells of itself."""

    owner: str
    """Whose name it is: two callers may use the same."""
    name: str
    queues: list[str]
    """`*` for all."""
    job_types: list[str]
    concurrency: int
    """How many jobs it runs at once."""
    version: str | None
    """Its own, for people to read."""
    policies: Mapping[str, Any] | None
    """By job type."""


Name: TypeAlias = tuple[str, str]
"""Owner and name of a worker."""


async def enter(link: Link, entries: Sequence[Entry], *, anew: bool) -> dict[Name, RemoteWorker]:
    """Enter workers, or tell that they live and what they serve.

    Args:
        link: the connection.
        entries: each worker once.
        anew: whether they begin: what was registered before is over.
    """
    rows = await link.fetch(
        *ENTER_REMOTE_WORKERS.bind(entries=json.dumps(entries), anew=anew, names=MAX_NAMES)
    )
    return {(row[0], row[1]): RemoteWorker(*tuple(row)[2:]) for row in rows}


async def seen(link: Link, names: Collection[Name]) -> dict[Name, bool]:
    """Tell that workers live; of those that are known, whether somebody asked them to claim no more."""
    ordered = sorted(names)
    rows = await link.fetch(
        *REMOTE_WORKERS_SEEN.bind(
            owners=[owner for owner, _ in ordered], names=[name for _, name in ordered]
        )
    )
    return {(row[0], row[1]): row[2] for row in rows}


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
