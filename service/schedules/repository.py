"""Every query on `schedules` and `schedule_ticks`. Nothing here commits: the transaction is the caller's."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.json_values import read_json
from service.db.session import CallerSession, fetch
from service.jobs.store.statement import Statement
from service.schedules.model import (
    PAUSED_BY_FAILURES,
    CatchUp,
    Definition,
    Overlap,
    Schedule,
    ScheduleId,
)
from service.schedules.timing import Timing

# The JSON travels as text: SQLAlchemy and asyncpg encode jsonb each in its own way.
_COLUMNS: Final = """id, name, owner, created_by, created_at, changed_at, cron, every_seconds, zone,
  jitter_seconds, job_type, payload::text AS payload, tick_member, queue, priority, max_retries, timeout_seconds,
  concurrency_key, overlap, catch_up, catch_up_seconds, pause_after_failures,
  declared::text AS declared, pinned_by, paused_at, paused_by, pause_reason, last_tick_at,
  next_tick_at, due_at, failures"""
_DEFINED: Final = (
    "cron", "every_seconds", "zone", "jitter_seconds", "job_type", "payload", "tick_member", "queue", "priority",
    "max_retries", "timeout_seconds", "concurrency_key", "overlap", "catch_up", "catch_up_seconds",
    "pause_after_failures",
)  # fmt: skip
"""The columns of a `Definition`."""

_NOW: Final = Statement("SELECT clock_timestamp()")
_COUNT: Final = Statement("SELECT count(*) FROM finmind_jobs.schedules")
_INSERT: Final = Statement(f"""
INSERT INTO finmind_jobs.schedules ({", ".join(_DEFINED)}, name, owner, created_by, declared,
  next_tick_at, due_at)
VALUES ({", ".join(f":{name}" if name != "payload" else ":payload::text::jsonb" for name in _DEFINED)},
  :name, :owner, :created_by, :declared::text::jsonb, :next_tick_at::timestamptz, :due_at::timestamptz)
ON CONFLICT (name) DO NOTHING RETURNING {_COLUMNS}""")
_UPDATE: Final = Statement(f"""
UPDATE finmind_jobs.schedules SET
  {", ".join(f"{name} = :{name}" if name != "payload" else "payload = :payload::text::jsonb" for name in _DEFINED)},
  owner = :owner, declared = :declared::text::jsonb, pinned_by = :pinned_by, paused_at = :paused_at,
  paused_by = :paused_by, pause_reason = :pause_reason, next_tick_at = :next_tick_at,
  due_at = :due_at, failures = :failures, changed_at = clock_timestamp()
WHERE id = :id RETURNING {_COLUMNS}""")
_FIND: Final = Statement(f"SELECT {_COLUMNS} FROM finmind_jobs.schedules WHERE name = :name")
_LOCK: Final = Statement(f"""
SELECT {_COLUMNS} FROM finmind_jobs.schedules WHERE name = ANY (:names::text[])
ORDER BY id FOR UPDATE""")
_OF_OWNER: Final = Statement(f"""
SELECT {_COLUMNS} FROM finmind_jobs.schedules WHERE owner = :owner OR name = ANY (:names::text[])
ORDER BY id FOR UPDATE""")
_LOCK_DECLARING: Final = Statement(
    "SELECT pg_advisory_xact_lock('finmind_jobs.schedules'::regclass::oid::bigint)"
)
_PAGE: Final = Statement(f"""
SELECT {_COLUMNS} FROM finmind_jobs.schedules
WHERE name > :after
AND (:job_type::text IS NULL OR job_type = :job_type)
AND (:queues::text[] IS NULL OR queue = ANY (:queues))
AND (:job_types::text[] IS NULL OR job_type = ANY (:job_types))
AND (:paused::bool IS NULL OR (paused_at IS NOT NULL) = :paused)
AND (:named::text IS NULL OR position(lower(:named) IN lower(name)) > 0)
ORDER BY name LIMIT :limit""")
_DELETE: Final = Statement("DELETE FROM finmind_jobs.schedules WHERE id = :id")
_FAILING: Final = Statement(f"""
SELECT {_COLUMNS} FROM finmind_jobs.schedules WHERE failures > 0 AND (failures >= :least OR paused_by = :paused_by)
ORDER BY failures DESC, id LIMIT :limit""")

# -- ticks ------------------------------------------------------------------------------------------
_DUE_IN: Final = Statement("""
SELECT extract(epoch FROM min(due_at) - clock_timestamp())::float8,
  EXISTS (SELECT FROM finmind_jobs.schedule_ticks WHERE job_id IS NOT NULL AND run_status IS NULL)
FROM finmind_jobs.schedules WHERE due_at IS NOT NULL""")
_LOCK_DUE: Final = Statement(f"""
SELECT {_COLUMNS}, statement_timestamp() AS now FROM finmind_jobs.schedules
WHERE due_at <= statement_timestamp() ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED""")
_ADVANCE: Final = Statement("""
UPDATE finmind_jobs.schedules s SET last_tick_at = r.last_tick_at, next_tick_at = r.next_tick_at,
  due_at = r.due_at
FROM unnest(:ids::bigint[], :befores::timestamptz[], :lasts::timestamptz[], :nexts::timestamptz[],
  :dues::timestamptz[]) AS r (id, before, last_tick_at, next_tick_at, due_at)
WHERE s.id = r.id AND s.last_tick_at IS NOT DISTINCT FROM r.before
RETURNING s.id""")
_LOCK_IDS: Final = Statement(f"""
SELECT {_COLUMNS} FROM finmind_jobs.schedules WHERE id = ANY (:ids::bigint[])
ORDER BY id FOR UPDATE""")
_SET_FAILURES: Final = Statement(
    "UPDATE finmind_jobs.schedules SET failures = :failures WHERE id = :id"
)


@dataclass(frozen=True, slots=True)
class Advance:
    """How far a schedule has come; `before` is its last tick as it was read."""

    id: ScheduleId
    before: datetime | None
    last_tick_at: datetime | None
    next_tick_at: datetime | None
    due_at: datetime | None


async def now(session: AsyncSession) -> datetime:
    """The time by the clock of the database, which is the one that counts."""
    moment: datetime = (await fetch(session, *_NOW.bind()))[0][0]
    return moment


async def count(session: AsyncSession) -> int:
    """How many schedules there are."""
    found: int = (await fetch(session, *_COUNT.bind()))[0][0]
    return found


async def insert(
    session: AsyncSession, name: str, definition: Definition, **values: Any
) -> Schedule | None:
    """A new schedule; None: the name is taken."""
    given = {"owner": None, "created_by": None, "declared": None} | values
    given["declared"] = _json(given["declared"])
    rows = await fetch(session, *_INSERT.bind(name=name, **_values(definition), **given))
    return _schedule(rows[0]) if rows else None


async def save(session: AsyncSession, schedule: Schedule) -> Schedule:
    """Write a schedule that this transaction has locked."""
    kept = {
        name: getattr(schedule, name)
        for name in (
            "id", "owner", "pinned_by", "paused_at", "paused_by", "pause_reason", "next_tick_at",
            "due_at", "failures",
        )
    }  # fmt: skip
    values = _values(schedule.definition) | kept | {"declared": _json(schedule.declared)}
    return _schedule((await fetch(session, *_UPDATE.bind(**values)))[0])


async def find(session: AsyncSession, name: str) -> Schedule | None:
    """The schedule of that name."""
    rows = await fetch(session, *_FIND.bind(name=name))
    return _schedule(rows[0]) if rows else None


async def lock(session: AsyncSession, names: Sequence[str]) -> list[Schedule]:
    """The schedules of these names, locked to the end of the transaction."""
    return [_schedule(row) for row in await fetch(session, *_LOCK.bind(names=list(names)))]


async def lock_of_owner(
    session: AsyncSession, owner: str, names: Sequence[str]
) -> dict[str, Schedule]:
    """Those that a service's code defines, and all of these names, by name and locked."""
    await fetch(session, *_LOCK_DECLARING.bind())
    rows = await fetch(session, *_OF_OWNER.bind(owner=owner, names=list(names)))
    return {row.name: _schedule(row) for row in rows}


async def page(
    session: AsyncSession,
    *,
    limit: int,
    after: str = "",
    job_type: str | None = None,
    paused: bool | None = None,
    named: str | None = None,
    queues: Collection[str] | None = None,
    job_types: Collection[str] | None = None,
) -> list[Schedule]:
    """Schedules by name, from behind `after` on, of these queues and types alone."""
    statement = _PAGE.bind(
        limit=limit,
        after=after,
        job_type=job_type,
        paused=paused,
        named=named,
        queues=None if queues is None else list(queues),
        job_types=None if job_types is None else list(job_types),
    )
    return [_schedule(row) for row in await fetch(session, *statement)]


async def failing(session: AsyncSession, *, least: int, limit: int) -> list[Schedule]:
    """Those whose last `least` runs failed, or that failures have paused; the worst first."""
    statement = _FAILING.bind(least=least, limit=limit, paused_by=PAUSED_BY_FAILURES)
    return [_schedule(row) for row in await fetch(session, *statement)]


async def delete(session: AsyncSession, schedule_id: ScheduleId) -> None:
    """Remove a schedule; what became of its ticks stays, for its jobs to know, until it is old."""
    await fetch(session, *_DELETE.bind(id=schedule_id))


# -- ticks ------------------------------------------------------------------------------------------
async def due_in(session: CallerSession) -> tuple[float | None, bool]:
    """In how many seconds the next schedule is due, negative if it is late; None: none ever is.

    And whether there are runs whose end is not noted.
    """
    seconds, open_runs = (await fetch(session, *_DUE_IN.bind()))[0]
    return seconds, open_runs


async def lock_due(session: AsyncSession, limit: int) -> tuple[list[Schedule], datetime | None]:
    """Due schedules, locked, and the time; those that another process acts on are left out."""
    rows = await fetch(session, *_LOCK_DUE.bind(limit=limit))
    return [_schedule(row) for row in rows], rows[0].now if rows else None


async def advance(session: AsyncSession, steps: Sequence[Advance]) -> set[ScheduleId]:
    """Move each schedule past its last tick, if that is still the one that was read; which were."""
    rows = await fetch(
        session,
        *_ADVANCE.bind(
            ids=[one.id for one in steps],
            befores=[one.before for one in steps],
            lasts=[one.last_tick_at for one in steps],
            nexts=[one.next_tick_at for one in steps],
            dues=[one.due_at for one in steps],
        ),
    )
    return {ScheduleId(row[0]) for row in rows}


async def lock_ids(session: AsyncSession, ids: Sequence[ScheduleId]) -> list[Schedule]:
    """These schedules, those that are still there, locked in the order of their ids."""
    return [_schedule(row) for row in await fetch(session, *_LOCK_IDS.bind(ids=list(ids)))]


async def set_failures(session: AsyncSession, schedule_id: ScheduleId, failures: int) -> None:
    """Keep how many runs failed in a row."""
    await fetch(session, *_SET_FAILURES.bind(id=schedule_id, failures=failures))


def _values(definition: Definition) -> dict[str, Any]:
    timing = definition.timing
    own = {
        "cron": timing.cron,
        "every_seconds": timing.every_seconds,
        "zone": timing.zone,
        "payload": _json(definition.payload),
        "overlap": definition.overlap.value,
        "catch_up": definition.catch_up.value,
    }
    return {name: own[name] if name in own else getattr(definition, name) for name in _DEFINED}


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _schedule(row: Any) -> Schedule:
    definition = Definition(
        timing=Timing(row.cron, row.every_seconds, row.zone),
        job_type=row.job_type,
        payload=read_json(row.payload),
        tick_member=row.tick_member,
        queue=row.queue,
        priority=row.priority,
        max_retries=row.max_retries,
        timeout_seconds=row.timeout_seconds,
        concurrency_key=row.concurrency_key,
        overlap=Overlap(row.overlap),
        catch_up=CatchUp(row.catch_up),
        catch_up_seconds=row.catch_up_seconds,
        jitter_seconds=row.jitter_seconds,
        pause_after_failures=row.pause_after_failures,
    )
    return Schedule(
        id=ScheduleId(row.id),
        name=row.name,
        definition=definition,
        declared=None if row.declared is None else read_json(row.declared),
        **{
            name: getattr(row, name)
            for name in (
                "owner", "created_by", "created_at", "changed_at", "pinned_by", "paused_at",
                "paused_by", "pause_reason", "last_tick_at", "next_tick_at", "due_at", "failures",
            )
        },
    )  # fmt: skip
