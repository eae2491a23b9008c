"""Which index gives the newest rows of each partition that match a list's filters."""

from dataclasses import dataclass
from typing import Final

from service.jobs.core.filters import JobFilters
from service.jobs.core.job import DEAD, DONE, LIVE, JobStatus

CONDITIONS: Final = {
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

_GROUPS: Final = (LIVE, DEAD, DONE)
"""The statuses of each partition: a filter on status leaves whole partitions out."""


@dataclass(frozen=True, slots=True)
class Drive:
    """How the newest rows of a partition are read, by an index of it."""

    newest: str
    """Condition and order, the cursor's part included."""
    answers: frozenset[str]
    """The filters that need no further check."""


def by_id(condition: str, answers: frozenset[str]) -> Drive:
    """Read a partition by its primary key."""
    return Drive(f"{condition} AND id < :before AND id > :above ORDER BY id DESC", answers)


def _by_name(column: str, answers: frozenset[str]) -> Drive:
    # As rows, not `column = :value … ORDER BY id`: the primary key gives that order too, and the
    # planner would take it where it reckons that the rows of one name lie scattered, and pass all
    # the others for them. This order only one index gives.
    return Drive(
        f"({column}, id) < (:{column}, :before) AND ({column}, id) > (:{column}, :above)"
        f" ORDER BY {column} DESC, id DESC",
        answers | {column},
    )


def driving(
    filters: JobFilters, group: frozenset[JobStatus], statuses: frozenset[JobStatus]
) -> Drive:
    """What an index of `group` serves in order of id.

    The live partition keeps three indexes only, so that claims stay cheap; it is read by its
    primary key, and is as small as the backlog.
    """
    free = frozenset({"statuses"}) if statuses == group else frozenset()
    if filters.unique_key is not None and group is LIVE:
        # At most one: asking for an order would mean walking the whole primary key.
        one = f"{CONDITIONS['unique_key']} AND id < :before AND id > :above"
        return Drive(one, free | {"unique_key"})
    if filters.unique_key is not None:
        return by_id(CONDITIONS["unique_key"], free | {"unique_key"})
    if filters.error is not None and group is DONE:
        # Few jobs that ended well ever failed; an index of its own names them.
        return by_id("last_error IS NOT NULL", free)
    if group is not LIVE:
        for name in ("job_type", "queue"):
            if getattr(filters, name) is not None:
                return _by_name(name, free)
    if len(statuses) == 1 and not statuses & (LIVE | {JobStatus.SUCCESS}):
        return by_id(f"status = '{next(iter(statuses))}'", frozenset({"statuses"}))
    return by_id("true", free)


def touched(
    filters: JobFilters,
) -> list[tuple[frozenset[JobStatus], frozenset[JobStatus]]]:
    """The partitions that can hold a match, each with the statuses wanted of it."""
    wanted = frozenset(JobStatus) if filters.statuses is None else frozenset(filters.statuses)
    if filters.finished_after is not None or filters.finished_before is not None:
        wanted -= LIVE
    return [(group, group & wanted) for group in _GROUPS if group & wanted] or [(LIVE, frozenset())]


def is_driven(filters: JobFilters) -> bool:
    """Whether indexes alone answer `filters`, so that every row looked at is one to return."""
    active = filters.active()
    return all(
        active <= driving(filters, group, statuses).answers for group, statuses in touched(filters)
    )


def is_scattered(filters: JobFilters) -> bool:
    """Whether conditions must be checked on rows that an index gives from all over the table."""
    active = filters.active()
    drives = [driving(filters, group, statuses) for group, statuses in touched(filters)]
    return filters.error is not None or any(
        drive.answers & {"job_type", "queue"} and not active <= drive.answers for drive in drives
    )
