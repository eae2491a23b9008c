"""The SQL of the operators' lists: which rows to look at, by which index, in which order.

A list is read newest first (by id) and looks at rows in steps. Each partition of the table gives
its newest rows below the cursor through an index that serves the filter there (`driving`); the
filters that no index serves are checked on the rows so looked at, and a step never looks at more
than it was told to. So no page costs more than the rows that it had to pass.

Names of columns and statuses are constants of this file; every value is bound.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs.core.fields import LISTED
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import DONE, MAX_ID, JobStatus
from service.jobs.store.fragments import readable
from service.jobs.store.listing_index import by_id, conditions, driving, touched

_SHOWN: Final = ", ".join(map(readable, LISTED))
"""What a list shows, with times as Python can hold them."""

Bound = dict[str, Any]
"""Values by the name of their parameter."""


_CANCELLED: Final = f"status = '{JobStatus.CANCELLED}'"

_COLUMN_OF: Final = {
    "statuses": "status",
    "created_after": "created_at",
    "created_before": "created_at",
    "due_after": "next_run_at",
    "due_before": "next_run_at",
    "finished_after": "finished_at",
    "finished_before": "finished_at",
    "worker": "worker_id",
    "error": "last_error",
    "ids": "id",
    "idempotency_key": "id",
}
"""The column that a filter reads, where it has another name."""

ORDER_SLACK: Final = timedelta(hours=1)
"""How far the order of moments may differ from that of events, where clocks are set back."""

DAY: Final = timedelta(days=1)

KEPT: Final = frozenset({"statuses", "job_type", "queue"})
"""Filters that the kept counts answer."""


@dataclass(frozen=True, slots=True)
class Looked:
    """One step of a list."""

    rows: list[Row[Any]]
    """The matches, `LISTED` of each, newest first."""
    looked: int
    """Rows looked at, matching or not."""
    lowest: int
    """The last of their ids."""


_BY_INDEX: Final = text("""
    SELECT set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true),
      set_config('enable_bitmapscan', 'off', true), set_config('jit', 'off', true)""")
"""Plan the transaction's further statements by the order of indexes, where there is one.

The planner weighs an index against reading all and sorting by statistics, which may be older than
the table's last growth, and by what it thinks that scattered reads cost. The statements of this
file are made for their indexes and read a bounded number of rows: there is nothing to weigh. What is
off costs more than all else in the planner's eyes, so that PostgreSQL would compile each statement for
a second: connections have `jit` off, but behind PgBouncer none can say so.
"""

_FIRST_ID_FROM: Final = text("""
    WITH RECURSIVE probe (low, high, step) AS (
      SELECT coalesce((SELECT id FROM finmind_jobs.background_jobs ORDER BY id LIMIT 1), 0),
             coalesce((SELECT id FROM finmind_jobs.background_jobs ORDER BY id DESC LIMIT 1), 0) + 1, 0
      UNION ALL
      SELECT CASE WHEN found.created_at < :moment THEN found.id + 1 ELSE low END,
             CASE WHEN found.created_at < :moment THEN high ELSE middle END,
             step + 1
      FROM probe
      CROSS JOIN LATERAL (SELECT low + (high - low) / 2 AS middle) AS half
      LEFT JOIN LATERAL (
        SELECT id, created_at FROM finmind_jobs.background_jobs WHERE id >= middle ORDER BY id LIMIT 1
      ) AS found ON true
      WHERE low < high AND step < 64
    )
    SELECT low FROM probe ORDER BY step DESC LIMIT 1""")


_NEWEST_ID: Final = text("SELECT id FROM finmind_jobs.background_jobs ORDER BY id DESC LIMIT 1")


async def plan_by_index(session: AsyncSession) -> None:
    """Have the transaction's further statements planned by the order of indexes; see `_BY_INDEX`."""
    await session.execute(_BY_INDEX)


async def look(
    session: AsyncSession, filters: JobFilters, *, before: int, above: int, scan: int, want: int
) -> Looked:
    """Take one step of a list: the newest matches among the newest `scan` rows.

    Args:
        session: its transaction is read, planned by `plan_by_index`.
        filters: which jobs match.
        before: only jobs below this id.
        above: only jobs above this id.
        scan: limit on the rows looked at.
        want: limit on the rows returned.
    """
    statement, values = look_sql(filters)
    step = {"before": before, "above": above, "scan": scan, "want": want}
    rows = (await session.execute(statement, values | step)).all()
    return Looked([row for row in rows if row.id is not None], rows[0].looked, rows[0].lowest)


async def count_newest(
    session: AsyncSession, filters: JobFilters, *, scan: int, above: int = -1
) -> tuple[int, int]:
    """How many of the newest `scan` rows above the id `above` match, and how many rows there were."""
    statement, values = count_sql(filters)
    step = {"before": MAX_ID, "above": above, "scan": scan}
    row = (await session.execute(statement, values | step)).one()
    return row.matching, row.looked


async def kept_count(session: AsyncSession, filters: JobFilters) -> int:
    """Sum the kept counts of finished jobs; status, type and queue are the only filters read."""
    statement, values = _kept_sql(filters)
    total: int = (await session.execute(statement, values)).scalar_one()
    return total


_BY_STATUS: Final = """
    SELECT status, sum(jobs)::bigint AS jobs, sum(looked)::bigint AS looked FROM (
      SELECT status, count(*) AS jobs, 0 AS looked FROM (
        SELECT status, queue, job_type FROM finmind_jobs.background_jobs
        WHERE status IN ('PENDING', 'RUNNING') ORDER BY id DESC LIMIT :scan - 1
      ) AS live WHERE {conditions} GROUP BY status
      UNION ALL
      SELECT NULL, 0, count(*) FROM (
        SELECT FROM finmind_jobs.background_jobs
        WHERE status IN ('PENDING', 'RUNNING') LIMIT :scan) AS live
      UNION ALL
      SELECT status, sum(jobs), 0 FROM finmind_jobs.job_stats WHERE {conditions} GROUP BY status
    ) AS counts GROUP BY status"""


async def count_by_status(
    session: AsyncSession, filters: JobFilters, *, scan: int
) -> tuple[dict[str, int], int]:
    """Jobs by status, and the live ones looked at; type and queue are the only filters read."""
    narrow = replace(filters, statuses=None)
    values = {name: value for name, value in _bound(narrow).items() if name in KEPT}
    statement = _BY_STATUS.format(conditions=conditions(narrow, KEPT))
    rows = (await session.execute(text(statement), values | {"scan": scan})).all()
    counts = {row.status: row.jobs for row in rows if row.status is not None}
    return counts, next(row.looked for row in rows if row.status is None)


async def first_id_from(session: AsyncSession, moment: datetime) -> int:
    """About the first id created at `moment` or later, by bisection over the primary keys.

    Exact as far as ids were given in the order of creation; see `ORDER_SLACK`.
    """
    found: int = (await session.execute(_FIRST_ID_FROM, {"moment": moment})).scalar_one()
    return found


async def newest_id(session: AsyncSession) -> int:
    """The highest id of a job; 0 where there is none."""
    found: int | None = (await session.execute(_NEWEST_ID)).scalar_one_or_none()
    return found or 0


def look_sql(filters: JobFilters) -> tuple[TextClause, Bound]:
    """The statement that takes one step of a list, and the values that `filters` gives it.

    Still to bind: `before` and `above` (ids, both exclusive), `scan` (rows to look at, at the
    most) and `want` (rows to return). Every row of the answer starts with `looked`, the number of
    rows looked at, and `lowest`, the last of their ids; a row whose `id` is null carries only
    those.
    """
    statement = f"""
        WITH looked AS MATERIALIZED ({_candidates(filters, ", ".join(_looked_at(filters)))}),
        edge AS (SELECT count(*) AS looked, min(id) AS lowest FROM looked)
        SELECT edge.looked, edge.lowest, page.* FROM edge LEFT JOIN (
          SELECT {_SHOWN} FROM looked WHERE {conditions(filters)} ORDER BY id DESC LIMIT :want
        ) AS page ON true ORDER BY page.id DESC"""
    return text(statement), _bound(filters)


def count_sql(filters: JobFilters) -> tuple[TextClause, Bound]:
    """The statement that counts matches among the newest `scan` rows: `matching`, `looked`."""
    # Only the columns that conditions read: what is counted whole is then read of an index alone.
    read = {_COLUMN_OF.get(name, name) for name in filters.active()} - {"id"}
    if "next_run_at" in read:
        read.add("held_due_at")
    statement = f"""
        SELECT count(*) FILTER (WHERE {conditions(filters)}) AS matching, count(*) AS looked
        FROM ({_candidates(filters, ", ".join(["id", *sorted(read)]))}) AS looked"""
    return text(statement), _bound(filters)


def _kept_sql(filters: JobFilters) -> tuple[TextClause, Bound]:
    """The statement that sums the kept counts of finished jobs; status, type and queue only."""
    names = filters.active() & KEPT
    kept = conditions(filters, names)
    return (
        text(f"SELECT coalesce(sum(jobs), 0)::bigint FROM finmind_jobs.job_stats WHERE {kept}"),
        {name: value for name, value in _bound(filters).items() if name in names},
    )


def _looked_at(filters: JobFilters) -> tuple[str, ...]:
    """What a list shows or makes of (`readable`), and what a filter reads: large payloads are slow to fetch."""
    return (*LISTED, "held_due_at", *sorted(filters.active() & {"payload", "fingerprint"}))


def _candidates(filters: JobFilters, columns: str) -> str:
    union = " UNION ALL ".join(
        f"(SELECT {columns} FROM finmind_jobs.background_jobs WHERE {part} LIMIT :scan)"
        for part in _parts(filters)
    )
    return f"SELECT * FROM ({union}) AS newest ORDER BY id DESC LIMIT :scan"


def _parts(filters: JobFilters) -> Iterator[str]:
    """Conditions and orders that give every row that can match, once."""
    for group, statuses in touched(filters):
        names = ", ".join(f"'{status}'" for status in sorted(group))
        newest = f"status IN ({names}) AND {driving(filters, group, statuses).newest}"
        if group is DONE:
            newest = _days_of(filters) + newest
        if JobStatus.SUCCESS not in statuses or not _skips_days(filters):
            yield newest
            continue
        yield f"finished_at >= :due_day AND {newest}"
        if JobStatus.CANCELLED in statuses:  # perhaps long before it was due
            yield f"finished_at < :due_day AND {by_id(_CANCELLED, frozenset()).newest}"


def _days_of(filters: JobFilters) -> str:
    """Leaves out the days of finished jobs on which none that is asked for ended."""
    after = "finished_at >= :finished_day AND " if filters.finished_after else ""
    before = "finished_at < :finished_next_day AND " if filters.finished_before else ""
    return after + before


def _skips_days(filters: JobFilters) -> bool:
    """Whether days of finished jobs can be left out: none succeeds before it is due."""
    return filters.due_after is not None and filters.unique_key is None


def _first_due_day(due_after: datetime) -> datetime:
    """A midnight, so that a partition is left out or read whole.

    Read in part, its other rows would have to be passed by a step that no bound ends.
    """
    return _midnight(slackened(due_after, -ORDER_SLACK))


def _midnight(moment: datetime) -> datetime:
    """When the UTC day of `moment` began."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def slackened(moment: datetime, slack: timedelta) -> datetime:
    """`moment` and `slack`; at the ends of the calendar `moment` as it is."""
    try:
        return moment + slack
    except OverflowError:
        return moment


def _bound(filters: JobFilters) -> Bound:
    values: Bound = {name: getattr(filters, name) for name in filters.active() - {"payload"}}
    for number, field in enumerate(filters.payload or ()):
        values[f"payload_path_{number}"] = list(field.path)
        values[f"payload_forms_{number}"] = field.forms
    if filters.ids is not None:
        values["ids"] = sorted(filters.ids)
    if filters.statuses is not None:
        values["statuses"] = sorted(str(status) for status in filters.statuses)
    if filters.due_after is not None and _skips_days(filters):
        values["due_day"] = _first_due_day(filters.due_after)
    if filters.finished_after is not None:
        values["finished_day"] = _midnight(filters.finished_after)
    if filters.finished_before is not None:
        values["finished_next_day"] = slackened(_midnight(filters.finished_before), DAY)
    if filters.error is not None:
        values["error"] = f"%{_escape_like(filters.error)}%"
    return values


def _escape_like(part: str) -> str:
    return part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
