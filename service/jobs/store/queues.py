"""What operators set for queues: pauses, limits, rates, weights.

A queue without a row has no restriction. A row that sets nothing any more is deleted, so the table
stays as small as the list of queues that somebody has set something for.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.connection import Link
from service.db.session import fetch
from service.jobs.core.holds import QUEUE
from service.jobs.core.queue_limits import (
    MAX_RATE_SECONDS,
    MIN_RATE_SECONDS,
    NO_LIMITS,
    QueueLimits,
    Rate,
)
from service.jobs.store import rate_limits
from service.jobs.store.statement import Statement

MAX_SET: Final = 1000
"""Queues for which something may be set: every worker reads their rows each second."""

IN_FORCE_SECONDS: Final = 2.0
"""A change is in force in every process within this time: workers read it each second."""

_LIMITS: Final = """max_running, max_running_per_key, rate_limit, rate_seconds, rate_burst,
  key_rate_limit, key_rate_seconds, key_rate_burst, weight, key_fairness, at_limit"""

_SETS_NO_LIMIT: Final = """num_nonnulls(
    max_running, max_running_per_key, rate_limit, key_rate_limit, weight) = 0
  AND NOT key_fairness AND at_limit = 'wait'"""

QUEUE_SETTINGS: Final = Statement(
    f"SELECT name, paused_at IS NOT NULL, {_LIMITS} FROM finmind_jobs.queues ORDER BY 1"
)
"""All that every worker reads, once a second."""


PAUSE_QUEUE: Final = Statement("""
INSERT INTO finmind_jobs.queues AS q (name, paused_at, paused_by, pause_reason)
SELECT :name, now(), :by, :reason
WHERE EXISTS (SELECT FROM finmind_jobs.queues WHERE name = :name)
  OR (SELECT count(*) FROM finmind_jobs.queues) < :limit
ON CONFLICT (name) DO UPDATE SET paused_at = COALESCE(q.paused_at, EXCLUDED.paused_at),
  paused_by = EXCLUDED.paused_by, pause_reason = EXCLUDED.pause_reason
RETURNING paused_at, paused_by, pause_reason
""")
"""Pausing a paused queue anew changes who and why, and not since when."""


RESUME_QUEUE: Final = Statement("""
UPDATE finmind_jobs.queues q SET paused_at = NULL, paused_by = NULL, pause_reason = NULL
FROM (SELECT name, paused_at, paused_by, pause_reason FROM finmind_jobs.queues
      WHERE name = :name AND paused_at IS NOT NULL FOR UPDATE) was
WHERE q.name = was.name
RETURNING was.paused_at, was.paused_by, was.pause_reason
""")
"""Its limits stay; a row that sets nothing any more goes by `FORGET_UNSET`."""


FORGET_UNSET: Final = Statement(f"""
DELETE FROM finmind_jobs.queues WHERE name = :name AND paused_at IS NULL AND {_SETS_NO_LIMIT}
""")


LOCK_QUEUE: Final = Statement(f"""
INSERT INTO finmind_jobs.queues AS q (name)
SELECT :name
WHERE EXISTS (SELECT FROM finmind_jobs.queues WHERE name = :name)
  OR (SELECT count(*) FROM finmind_jobs.queues) < :limit
ON CONFLICT (name) DO UPDATE SET name = EXCLUDED.name
RETURNING {_LIMITS}
""")
"""Make the row unless it is there, and lock it, whoever deletes it meanwhile."""


SET_LIMITS: Final = Statement("""
UPDATE finmind_jobs.queues SET max_running = :max_running,
  max_running_per_key = :max_running_per_key, rate_limit = :rate_limit, rate_seconds = :rate_seconds,
  rate_burst = :rate_burst, key_rate_limit = :key_rate_limit, key_rate_seconds = :key_rate_seconds,
  key_rate_burst = :key_rate_burst, weight = :weight, key_fairness = :key_fairness, at_limit = :at_limit,
  changed_at = now(), changed_by = :by
WHERE name = :name
""")


_QUEUES: Final = Statement(f"""
SELECT name, paused_at, paused_by, pause_reason,
  COALESCE(paused_at <= now() - make_interval(secs => :in_force_seconds), false), COALESCE((
    SELECT p.running FROM finmind_jobs.job_permits p WHERE p.key = '{QUEUE}' || q.name), 0),
  rate_limit IS NOT NULL AND COALESCE((
    SELECT r.next_at > now() FROM finmind_jobs.rate_limits r WHERE r.key = {rate_limits.name_of("q.name")}), false),
  changed_at, changed_by, {_LIMITS}
FROM finmind_jobs.queues q WHERE :name::text IS NULL OR name = :name ORDER BY name
""")


_PAUSE_OF: Final = Statement("""
SELECT paused_at, paused_by, pause_reason FROM finmind_jobs.queues
WHERE name = :name AND paused_at IS NOT NULL
""")


_PAUSES: Final = Statement("""
SELECT name, paused_at, paused_by, pause_reason FROM finmind_jobs.queues
WHERE paused_at IS NOT NULL ORDER BY name
""")


class Pause(NamedTuple):
    """Since when a queue is paused, by whom, and why."""

    since: datetime
    by: str | None
    reason: str | None


class QueueRow(NamedTuple):
    """What is set for one queue, and how many permits of it are in use."""

    pause: Pause | None
    pause_is_in_force: bool
    """Whether every process knows of the pause by now."""
    permits_used: int
    """RUNNING jobs that count under `max_running`."""
    no_turn_is_free: bool
    """Whether its rate lets no job start now."""
    changed_at: datetime | None
    """When its limits were changed last."""
    changed_by: str | None
    limits: QueueLimits

    @property
    def is_full(self) -> bool:
        """Whether as many of its jobs run as may."""
        allowed = self.limits.max_running
        return allowed is not None and self.permits_used >= allowed


NOTHING_SET: Final = QueueRow(
    None,
    pause_is_in_force=False,
    permits_used=0,
    no_turn_is_free=False,
    changed_at=None,
    changed_by=None,
    limits=NO_LIMITS,
)


class Settings(NamedTuple):
    """What is set, for all queues."""

    paused: frozenset[str]
    """The names of the paused queues."""
    limits: dict[str, QueueLimits]
    """By name, for the queues that have any."""


async def settings(link: Link) -> Settings:
    """What is set, for all queues."""
    rows = await link.fetch(*QUEUE_SETTINGS.bind())
    limits = {row[0]: _limits(row[2:]) for row in rows}
    return Settings(
        paused=frozenset(row[0] for row in rows if row[1]),
        limits={name: one for name, one in limits.items() if one != NO_LIMITS},
    )


async def paused(link: Link) -> frozenset[str]:
    """The names of the paused queues."""
    return (await settings(link)).paused


def _limits(columns: Sequence[Any]) -> QueueLimits:
    """Of the columns `_LIMITS`."""
    max_running, max_running_per_key = columns[:2]
    return QueueLimits(
        max_running, max_running_per_key, _rate(*columns[2:5]), _rate(*columns[5:8]), *columns[8:]
    )


def _rate(limit: int | None, seconds: float | None, burst: int | None) -> Rate | None:
    if not limit or not seconds:
        return None
    # As ADMIT reckons with what plain SQL has set; NaN is the shortest time here.
    return Rate(limit, min(max(MIN_RATE_SECONDS, seconds), MAX_RATE_SECONDS), burst)


async def pause(
    session: AsyncSession, name: str, *, by: str | None, reason: str | None
) -> Pause | None:
    """Pause a queue; None where something is set for `MAX_SET` others."""
    rows = await fetch(session, *PAUSE_QUEUE.bind(name=name, by=by, reason=reason, limit=MAX_SET))
    return Pause(*rows[0]) if rows else None


async def resume(session: AsyncSession, name: str) -> Pause | None:
    """Resume a queue; the pause that ended, None where there was none."""
    rows = await fetch(session, *RESUME_QUEUE.bind(name=name))
    await fetch(session, *FORGET_UNSET.bind(name=name))
    return Pause(*rows[0]) if rows else None


async def pause_of(session: AsyncSession, name: str) -> Pause | None:
    """The pause of a queue; None where it is not paused."""
    rows = await fetch(session, *_PAUSE_OF.bind(name=name))
    return Pause(*rows[0]) if rows else None


async def lock(session: AsyncSession, name: str) -> QueueLimits | None:
    """The limits of a queue, whose row is made and locked; None where `MAX_SET` others are set."""
    rows = await fetch(session, *LOCK_QUEUE.bind(name=name, limit=MAX_SET))
    return _limits(rows[0]) if rows else None


async def set_limits(
    session: AsyncSession, name: str, limits: QueueLimits, *, by: str | None
) -> None:
    """Set all limits of a queue whose row is locked; a row that sets nothing goes."""
    rate, key_rate = limits.rate, limits.rate_per_key
    await fetch(
        session,
        *SET_LIMITS.bind(
            name=name,
            by=by,
            max_running=limits.max_running,
            max_running_per_key=limits.max_running_per_key,
            rate_limit=rate and rate.limit,
            rate_seconds=rate and float(rate.per_seconds),
            rate_burst=rate and rate.burst,
            key_rate_limit=key_rate and key_rate.limit,
            key_rate_seconds=key_rate and float(key_rate.per_seconds),
            key_rate_burst=key_rate and key_rate.burst,
            weight=limits.weight,
            key_fairness=limits.key_fairness,
            at_limit=limits.at_limit,
        ),
    )
    await fetch(session, *FORGET_UNSET.bind(name=name))


async def rows(session: AsyncSession, *, name: str | None = None) -> dict[str, QueueRow]:
    """What is set for each queue, or for one."""
    found = await fetch(session, *_QUEUES.bind(name=name, in_force_seconds=IN_FORCE_SECONDS))
    return {
        row[0]: QueueRow(
            Pause(*row[1:4]) if row[1] else None,
            pause_is_in_force=row[4],
            permits_used=row[5],
            no_turn_is_free=row[6],
            changed_at=row[7],
            changed_by=row[8],
            limits=_limits(row[9:]),
        )
        for row in found
    }


async def pauses(session: AsyncSession) -> dict[str, Pause]:
    """The pause of each paused queue."""
    return {row[0]: Pause(*row[1:]) for row in await fetch(session, *_PAUSES.bind())}
