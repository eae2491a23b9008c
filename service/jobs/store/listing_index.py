"""Which index gives the newest rows of each partition that match a list's filters."""

from dataclasses import dataclass
from typing import Final

from service.jobs.core.filters import JobFilters
from service.jobs.core.job import DEAD, DONE, LIVE, JobStatus
from service.jobs.store.fragments import DUE_AT

MAX_KEY_OWNERS: Final = 1_000
"""Callers among whose idempotency keys one is looked for."""

_IDEMPOTENT: Final = f"""
    WITH RECURSIVE owners AS (
      (SELECT owner, 1 AS number FROM finmind_jobs.idempotency_keys ORDER BY owner LIMIT 1)
      UNION ALL
      SELECT next.owner, owners.number + 1 FROM owners CROSS JOIN LATERAL (
        SELECT k.owner FROM finmind_jobs.idempotency_keys k WHERE k.owner > owners.owner
        ORDER BY k.owner LIMIT 1
      ) AS next WHERE owners.number < {MAX_KEY_OWNERS}
    )
    SELECT unnest(k.job_ids) FROM owners CROSS JOIN finmind_jobs.idempotency_keys k
    WHERE k.owner = owners.owner AND k.key = :idempotency_key"""
# Keys are found by owner and key: this asks each owner in turn.

CONDITIONS: Final = {
    "ids": "id = ANY (CAST(:ids AS bigint[]))",
    "idempotency_key": f"id = ANY (ARRAY({_IDEMPOTENT}))",
    "statuses": "status = ANY (CAST(:statuses AS text[]))",
    "job_type": "job_type = :job_type",
    "queue": "queue = :queue",
    "priority": "priority = :priority",
    "unique_key": "unique_key = :unique_key",
    "concurrency_key": "concurrency_key = :concurrency_key",
    "held_for": "(held_for = :held_for OR split_part(held_for, ':', 1) = :held_for"
    " OR (:held_for = '*' AND held_for IS NOT NULL))",
    "created_after": "created_at >= :created_after",
    "created_before": "created_at < :created_before",
    "due_after": f"{DUE_AT} >= :due_after",
    "due_before": f"{DUE_AT} < :due_before",
    "finished_after": "finished_at >= :finished_after",
    "finished_before": "finished_at < :finished_before",
    "worker": "worker_id = ANY (ARRAY("
    "SELECT w.id FROM finmind_jobs.job_workers w WHERE w.name = :worker))",
    "error": "last_error ILIKE :error",
    "fingerprint": "fingerprint = :fingerprint",
}

_PAYLOAD: Final = (
    "(payload #> CAST(:payload_path_{0} AS text[]))"
    " = ANY (CAST(CAST(:payload_forms_{0} AS text[]) AS jsonb[]))"
)

_GROUPS: Final = (LIVE, DEAD, DONE)
"""The statuses of each partition: a filter on status leaves whole partitions out."""


def conditions(filters: JobFilters, names: frozenset[str] | None = None) -> str:
    """What a row must fulfil; of the filters in `names` alone, where they are given."""
    active = filters.active() if names is None else filters.active() & names
    tests = [CONDITIONS[name] for name in sorted(active - {"payload"})]
    if "payload" in active:
        tests += [_PAYLOAD.format(number) for number in range(len(filters.payload or ()))]
    return " AND ".join(tests) or "true"


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
    for name in ("ids", "idempotency_key", "unique_key"):
        if getattr(filters, name) is not None:
            return by_id(CONDITIONS[name], free | {name})
    if filters.error is not None and group is DONE:
        # Few jobs that ended well ever failed; an index of its own names them.
        return by_id("last_error IS NOT NULL", free)
    if group is not LIVE:
        for name in ("fingerprint", "job_type", "queue"):
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
    if filters.held_for is not None:
        wanted &= LIVE
    if filters.fingerprint is not None:
        wanted &= DEAD
    return [(group, group & wanted) for group in _GROUPS if group & wanted] or [
        (LIVE if filters.fingerprint is None else DEAD, frozenset())
    ]


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
    return not active.isdisjoint({"error", "payload"}) or any(
        drive.answers & {"fingerprint", "job_type", "queue"} and not active <= drive.answers
        for drive in drives
    )
