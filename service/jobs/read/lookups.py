# ruff: noqa: S608 - statements are put together from the constants of this file; values are bound
"""The SQL of the operators' lists: which rows to look at, by which index, in which order.

A list is read newest first (by id) and looks at rows in steps. Each partition of the table gives
its newest rows below the cursor through an index that serves the filter there (`_driving`); the
filters that no index serves are checked on the rows so looked at, and a step never looks at more
than it was told to. So no page costs more than the rows that it had to pass.

Names of columns and statuses are constants of this file; every value is bound.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import TextClause, text

from service.jobs.core.job import DEAD, DONE, FIRST_MOMENT, LAST_MOMENT, LIVE, JobStatus

MAX_ID: Final = 2**63 - 1
"""The largest id that the table can hold."""

SUMMARY_COLUMNS: Final = (
    "id, job_type, queue, status, priority, attempts, max_retries, next_run_at, created_at, "
    "started_at, finished_at, worker_id, unique_key, last_error"
)
"""What a list shows of a job; payloads, results and histories stay where they are."""

_SHOWN: Final = ", ".join(
    f"CASE WHEN {name} < {FIRST_MOMENT} THEN {FIRST_MOMENT}"
    f" WHEN {name} > {LAST_MOMENT} THEN {LAST_MOMENT} ELSE {name} END AS {name}"
    if name.endswith("_at")
    else name
    for name in SUMMARY_COLUMNS.split(", ")
)
"""The same, with times as Python can hold them."""

Bound = dict[str, Any]
"""Values by the name of their parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilters:
    """Which jobs to list; None means any. `*_after` is inclusive, `*_before` exclusive."""

    statuses: Collection[JobStatus] | None = None
    job_type: str | None = None
    queue: str | None = None
    priority: int | None = None
    unique_key: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    due_after: datetime | None = None
    due_before: datetime | None = None
    finished_after: datetime | None = None
    finished_before: datetime | None = None
    worker: str | None = None
    """The name of the worker that runs it, or ran it last."""
    error: str | None = None
    """A part of `last_error`, upper and lower case alike."""

    def active(self) -> frozenset[str]:
        """The names of the filters that are set."""
        return frozenset(name for name in _CONDITIONS if getattr(self, name) is not None)


_CONDITIONS: Final = {
    "statuses": "status = ANY (CAST(:statuses AS text[]))",
    "job_type": "job_type = :job_type",
    "queue": "queue = :queue",
    "priority": "priority = :priority",
    "unique_key": "unique_key = :unique_key",
    "created_after": "created_at >= :created_after",
    "created_before": "created_at < :created_before",
    "due_after": "next_run_at >= :due_after",
    "due_before": "next_run_at < :due_before",
    "finished_after": "finished_at >= :finished_after",
    "finished_before": "finished_at < :finished_before",
    "worker": "worker_id = ANY (ARRAY("
    "SELECT w.id FROM finmind_jobs.job_workers w WHERE w.name = :worker))",
    "error": "last_error ILIKE :error",
}

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
}
"""The column that a filter reads, where it has another name."""

ORDER_SLACK: Final = timedelta(hours=1)
"""How far the order of moments may differ from that of events, where clocks are set back."""

DAY: Final = timedelta(days=1)

_GROUPS: Final = (LIVE, DEAD, DONE)
"""The statuses of each partition: a filter on status leaves whole partitions out."""


def look(filters: JobFilters) -> tuple[TextClause, Bound]:
    """The statement that takes one step of a list, and the values that `filters` gives it.

    Still to bind: `before` and `above` (ids, both exclusive), `scan` (rows to look at, at the
    most) and `want` (rows to return). Every row of the answer starts with `looked`, the number of
    rows looked at, and `lowest`, the last of their ids; a row whose `id` is null carries only
    those.
    """
    statement = f"""
        WITH looked AS MATERIALIZED ({_candidates(filters, SUMMARY_COLUMNS)}),
        edge AS (SELECT count(*) AS looked, min(id) AS lowest FROM looked)
        SELECT edge.looked, edge.lowest, page.* FROM edge LEFT JOIN (
          SELECT {_SHOWN} FROM looked WHERE {_conditions(filters)} ORDER BY id DESC LIMIT :want
        ) AS page ON true ORDER BY page.id DESC"""
    return text(statement), _bound(filters)


def count_looked(filters: JobFilters) -> tuple[TextClause, Bound]:
    """The statement that counts matches among the newest `scan` rows: `matching`, `looked`."""
    # Only the columns that conditions read: what is counted whole is then read of an index alone.
    read = {_COLUMN_OF.get(name, name) for name in filters.active()}
    statement = f"""
        SELECT count(*) FILTER (WHERE {_conditions(filters)}) AS matching, count(*) AS looked
        FROM ({_candidates(filters, ", ".join(["id", *sorted(read)]))}) AS looked"""
    return text(statement), _bound(filters)


def kept_count(filters: JobFilters) -> tuple[TextClause, Bound]:
    """The statement that sums the kept counts of finished jobs; status, type and queue only."""
    names = filters.active() & {"statuses", "job_type", "queue"}
    conditions = " AND ".join(_CONDITIONS[name] for name in sorted(names)) or "true"
    return (
        text(
            f"SELECT coalesce(sum(jobs), 0)::bigint FROM finmind_jobs.job_stats WHERE {conditions}"
        ),
        {name: value for name, value in _bound(filters).items() if name in names},
    )


def is_driven(filters: JobFilters) -> bool:
    """Whether indexes alone answer `filters`, so that every row looked at is one to return."""
    active = filters.active()
    return all(
        active <= _driving(filters, group, statuses).answers
        for group, statuses in _touched(filters)
    )


def is_scattered(filters: JobFilters) -> bool:
    """Whether conditions must be checked on rows that an index gives from all over the table."""
    active = filters.active()
    drives = [_driving(filters, group, statuses) for group, statuses in _touched(filters)]
    return filters.error is not None or any(
        drive.answers & {"job_type", "queue"} and not active <= drive.answers for drive in drives
    )


def _candidates(filters: JobFilters, columns: str) -> str:
    union = " UNION ALL ".join(
        f"(SELECT {columns} FROM finmind_jobs.background_jobs WHERE {part} LIMIT :scan)"
        for part in _parts(filters)
    )
    return f"SELECT * FROM ({union}) AS newest ORDER BY id DESC LIMIT :scan"


def _parts(filters: JobFilters) -> Iterator[str]:
    """Conditions and orders that give every row that can match, once."""
    for group, statuses in _touched(filters):
        names = ", ".join(f"'{status}'" for status in sorted(group))
        newest = f"status IN ({names}) AND {_driving(filters, group, statuses).newest}"
        if group is DONE:
            newest = _days_of(filters) + newest
        if JobStatus.SUCCESS not in statuses or not _skips_days(filters):
            yield newest
            continue
        yield f"finished_at >= :due_day AND {newest}"
        if JobStatus.CANCELLED in statuses:  # perhaps long before it was due
            yield f"finished_at < :due_day AND {_by_id(_CANCELLED, frozenset()).newest}"


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


def _touched(
    filters: JobFilters,
) -> list[tuple[frozenset[JobStatus], frozenset[JobStatus]]]:
    """The partitions that can hold a match, each with the statuses wanted of it."""
    wanted = frozenset(JobStatus) if filters.statuses is None else frozenset(filters.statuses)
    if filters.finished_after is not None or filters.finished_before is not None:
        wanted -= LIVE
    return [(group, group & wanted) for group in _GROUPS if group & wanted] or [(LIVE, frozenset())]


@dataclass(frozen=True, slots=True)
class _Drive:
    """How the newest rows of a partition are read, by an index of it."""

    newest: str
    """Condition and order, the cursor's part included."""
    answers: frozenset[str]
    """The filters that need no further check."""


def _by_id(condition: str, answers: frozenset[str]) -> _Drive:
    return _Drive(f"{condition} AND id < :before AND id > :above ORDER BY id DESC", answers)


def _by_name(column: str, answers: frozenset[str]) -> _Drive:
    # As rows, not `column = :value … ORDER BY id`: the primary key gives that order too, and the
    # planner would take it where it reckons that the rows of one name lie scattered, and pass all
    # the others for them. This order only one index gives.
    return _Drive(
        f"({column}, id) < (:{column}, :before) AND ({column}, id) > (:{column}, :above)"
        f" ORDER BY {column} DESC, id DESC",
        answers | {column},
    )


def _driving(
    filters: JobFilters, group: frozenset[JobStatus], statuses: frozenset[JobStatus]
) -> _Drive:
    """What an index of `group` serves in order of id.

    The live partition keeps three indexes only, so that claims stay cheap; it is read by its
    primary key, and is as small as the backlog.
    """
    free = frozenset({"statuses"}) if statuses == group else frozenset()
    if filters.unique_key is not None and group is LIVE:
        # One at the most: to ask for an order would be to ask for the primary key, walked whole.
        one = f"{_CONDITIONS['unique_key']} AND id < :before AND id > :above"
        return _Drive(one, free | {"unique_key"})
    if filters.unique_key is not None:
        return _by_id(_CONDITIONS["unique_key"], free | {"unique_key"})
    if filters.error is not None and group is DONE:
        # Few jobs that ended well ever failed; an index of its own names them.
        return _by_id("last_error IS NOT NULL", free)
    if group is not LIVE:
        for name in ("job_type", "queue"):
            if getattr(filters, name) is not None:
                return _by_name(name, free)
    if len(statuses) == 1 and not statuses & (LIVE | {JobStatus.SUCCESS}):
        return _by_id(f"status = '{next(iter(statuses))}'", frozenset({"statuses"}))
    return _by_id("true", free)


def _conditions(filters: JobFilters) -> str:
    return " AND ".join(_CONDITIONS[name] for name in sorted(filters.active())) or "true"


def _bound(filters: JobFilters) -> Bound:
    values: Bound = {name: getattr(filters, name) for name in filters.active()}
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


BY_INDEX: Final = text("""
    SELECT set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true),
      set_config('enable_bitmapscan', 'off', true), set_config('jit', 'off', true)""")
"""Plan the transaction's further statements by the order of indexes, where there is one.

The planner weighs an index against reading all and sorting by statistics, which may be older than
the table's last growth, and by what it thinks that scattered reads cost. The statements of this
file are made for their indexes and read a bounded number of rows: there is nothing to weigh. What is
off costs more than all else in the planner's eyes, so that PostgreSQL would compile each statement for
a second: connections have `jit` off, but behind PgBouncer none can say so.
"""

FIRST_ID_FROM: Final = text("""
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
"""About the first id created at `moment` or later, by bisection over the primary keys.

Exact as far as ids were given in the order of creation; see `ORDER_SLACK`.
"""
