"""Every query on `targets`. Nothing here commits: the transaction is the caller's."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import schema_of
from service.jobs.core.holds import BREAKER

MAX_OPEN: Final = 10_000
"""Open breakers that one process knows."""

RELEASE_AGAIN_SECONDS: Final = 10.0
"""How long a held job that was let go may take to try its target, before another is let go."""

MAX_TARGETS: Final = 10_000
KEEP_DAYS: Final = 7
"""How long a target is listed that nobody uses; of more than `MAX_TARGETS` the latest."""

DROP_BATCH: Final = 1_000
"""Targets that one statement forgets."""
MAX_HELD_COUNTED: Final = 1_000
MAX_ERROR_CHARS: Final = 300

Write: TypeAlias = Callable[[AsyncSession, str], Awaitable[object]]


@dataclass(slots=True)
class Use:
    """What happened with one target since it was written down last."""

    succeeded: int = 0
    failed: int = 0
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One target as operators see it."""

    name: str
    state: str
    """`closed`, `open` or `half_open`: the next request tries it, or does so now."""
    opened_at: datetime | None
    retry_at: datetime | None
    openings: int
    last_error: str | None
    last_failure_at: datetime | None
    last_success_at: datetime | None
    succeeded: int
    failed: int
    used_at: datetime
    held: int
    """Jobs that wait for it, up to `MAX_HELD_COUNTED`."""


_SHOWN: Final = f"""
SELECT t.name,
  CASE WHEN t.opened_at IS NULL THEN 'closed' WHEN t.retry_at <= now() THEN 'half_open' ELSE 'open' END AS state,
  t.opened_at, t.retry_at, t.openings, t.last_error, t.last_failure_at, t.last_success_at, t.succeeded, t.failed,
  t.used_at, (SELECT count(*) FROM (SELECT FROM finmind_jobs.jobs_live b
    WHERE b.held_for = '{BREAKER}' || t.name LIMIT {MAX_HELD_COUNTED}) h) AS held
FROM finmind_jobs.targets t"""


async def _run(session: AsyncSession, statement: str, **values: Any) -> Any:
    await schema_of(session)
    return await session.execute(text(statement), values)


async def open_breakers(session: AsyncSession) -> dict[str, float]:
    """The targets whose breakers are open, and in how many seconds each lets a request through."""
    rows = await _run(
        session,
        "SELECT name, date_part('epoch', retry_at - now()) FROM finmind_jobs.targets"
        " WHERE opened_at IS NOT NULL ORDER BY name LIMIT :limit",
        limit=MAX_OPEN,
    )
    return {row[0]: float(row[1]) for row in rows}


async def open_breaker(
    session: AsyncSession, name: str, *, error: str, pause: float, longest: float
) -> float:
    """Open a breaker, or keep it open after a probe that failed; in how many seconds it is tried again.

    Pauses double with each probe that fails, up to `longest`, and vary by a tenth: processes that open it at
    the same time agree on the first.
    """
    rows = await _run(
        session,
        """INSERT INTO finmind_jobs.targets AS t (name, opened_at, retry_at, last_error, last_failure_at)
        VALUES (:name, now(), now() + make_interval(secs => :pause), :error, now())
        ON CONFLICT (name) DO UPDATE SET
          openings = CASE WHEN t.opened_at IS NULL THEN 0 WHEN t.retry_at <= now() THEN t.openings + 1
            ELSE t.openings END,
          retry_at = CASE WHEN t.opened_at IS NULL THEN EXCLUDED.retry_at
            WHEN t.retry_at <= now() THEN now() + make_interval(secs =>
              least(:pause * power(2, least(t.openings + 1, 20)), :longest) * (0.9 + 0.2 * random()))
            ELSE t.retry_at END,
          opened_at = COALESCE(t.opened_at, now()), probe_until = NULL, released_at = NULL,
          last_error = EXCLUDED.last_error, last_failure_at = now(), used_at = now()
        RETURNING date_part('epoch', retry_at - now())""",
        name=name,
        error=error[:MAX_ERROR_CHARS],
        pause=pause,
        longest=longest,
    )
    return float(rows.scalar_one())


async def take_probe(session: AsyncSession, name: str, *, seconds: float) -> bool:
    """Become the one request that tries a target, over all processes; True also where it is closed again.

    After so many seconds another request may try it, whatever became of this one.
    """
    rows = await _run(
        session,
        """UPDATE finmind_jobs.targets SET probe_until = now() + make_interval(secs => :seconds)
        WHERE name = :name AND (opened_at IS NULL OR retry_at <= now() AND (probe_until IS NULL OR probe_until < now()))
        RETURNING name""",
        name=name,
        seconds=seconds,
    )
    return rows.first() is not None


async def give_probe_back(session: AsyncSession, name: str) -> None:
    """Let another request try a target: this one came to nothing."""
    await _run(
        session, "UPDATE finmind_jobs.targets SET probe_until = NULL WHERE name = :name", name=name
    )


async def close(session: AsyncSession, name: str) -> bool:
    """Close a breaker; whether it was open."""
    rows = await _run(
        session,
        """UPDATE finmind_jobs.targets SET opened_at = NULL, retry_at = NULL, openings = 0, probe_until = NULL,
          released_at = NULL, last_success_at = now(), used_at = now()
        WHERE name = :name AND opened_at IS NOT NULL RETURNING name""",
        name=name,
    )
    return rows.first() is not None


async def reset(session: AsyncSession, name: str) -> None:
    """Close a breaker though nobody has tried its target."""
    await _run(
        session,
        """UPDATE finmind_jobs.targets SET opened_at = NULL, retry_at = NULL, openings = 0, probe_until = NULL,
          released_at = NULL WHERE name = :name""",
        name=name,
    )


async def may_release(session: AsyncSession, name: str) -> bool:
    """Whether a held job is to be let go, by whoever asks, to try its target now."""
    rows = await _run(
        session,
        """UPDATE finmind_jobs.targets SET released_at = now()
        WHERE name = :name AND opened_at IS NOT NULL AND retry_at <= now()
          AND (probe_until IS NULL OR probe_until < now())
          AND (released_at IS NULL OR released_at < now() - make_interval(secs => :seconds))
        RETURNING name""",
        name=name,
        seconds=RELEASE_AGAIN_SECONDS,
    )
    return rows.first() is not None


async def write_uses(session: AsyncSession, uses: Mapping[str, Use]) -> None:
    """Add up what happened, in one statement."""
    names = sorted(uses)
    await _run(
        session,
        """INSERT INTO finmind_jobs.targets AS t
          (name, succeeded, failed, last_error, last_success_at, last_failure_at, used_at)
        SELECT r.name, r.succeeded, r.failed, r.error, CASE WHEN r.succeeded > 0 THEN now() END,
          CASE WHEN r.failed > 0 THEN now() END, now()
        FROM unnest(CAST(:names AS text[]), CAST(:succeeded AS bigint[]), CAST(:failed AS bigint[]),
          CAST(:errors AS text[])) AS r(name, succeeded, failed, error) ORDER BY r.name
        ON CONFLICT (name) DO UPDATE SET succeeded = t.succeeded + EXCLUDED.succeeded,
          failed = t.failed + EXCLUDED.failed, last_error = COALESCE(EXCLUDED.last_error, t.last_error),
          last_success_at = COALESCE(EXCLUDED.last_success_at, t.last_success_at),
          last_failure_at = COALESCE(EXCLUDED.last_failure_at, t.last_failure_at), used_at = now()""",
        names=names,
        succeeded=[uses[name].succeeded for name in names],
        failed=[uses[name].failed for name in names],
        errors=[(uses[name].last_error or "")[:MAX_ERROR_CHARS] or None for name in names],
    )


async def drop_unused(session: AsyncSession) -> int:
    """Forget targets that nobody has used for `KEEP_DAYS`, and closed ones beyond `MAX_TARGETS`; how many.

    An open breaker is used whenever a request tries its target: nothing is sent to one that is that old.
    """
    rows = await _run(
        session,
        """DELETE FROM finmind_jobs.targets WHERE name IN (
          SELECT name FROM (SELECT name, opened_at, used_at, row_number() OVER (ORDER BY used_at DESC) AS n
            FROM finmind_jobs.targets) t
          WHERE used_at < now() - make_interval(days => :days) OR opened_at IS NULL AND n > :most
          ORDER BY name LIMIT :limit)""",
        days=KEEP_DAYS,
        most=MAX_TARGETS,
        limit=DROP_BATCH,
    )
    return int(rows.rowcount)


async def page(session: AsyncSession, *, after: str, limit: int, only_open: bool) -> list[Target]:
    """Targets by name, behind `after`."""
    more = " AND t.opened_at IS NOT NULL" if only_open else ""
    rows = await _run(
        session,
        f"{_SHOWN} WHERE t.name > :after{more} ORDER BY t.name LIMIT :limit",
        after=after,
        limit=limit,
    )
    return [Target(*row) for row in rows]


async def find(session: AsyncSession, name: str, *, lock: bool = False) -> Target | None:
    """One target; with `lock` nobody else changes it before the transaction ends."""
    more = " FOR UPDATE OF t" if lock else ""
    rows = await _run(session, f"{_SHOWN} WHERE t.name = :name{more}", name=name)
    row = rows.first()
    return None if row is None else Target(*row)
