"""What needs attention, in words, worst first."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Final

from service.dashboard.formats import duration, number
from service.dashboard.links import FAILED, group_href, jobs_href, queue_href, schedule_href
from service.jobs.read.attention import UnnamedDead, UnresolvedCauses, UnservedType, Workers
from service.jobs.read.queues import QueueState
from service.observability.health import Check
from service.operations.model import Operation, OperationState
from service.schedules.model import Schedule

MAX_OF_A_KIND: Final = 3
"""Items of one kind; the rest are summed in one more."""


class Level(IntEnum):
    """How bad it is."""

    BROKEN = 0
    """Jobs fail, or do not run."""
    WARNING = 1
    """They may soon, or somebody meant it so."""


@dataclass(frozen=True, slots=True)
class Attention:
    """One thing that somebody should look at."""

    level: Level
    weight: float
    """Among those of one level, the heavier come first."""
    what: str
    detail: str = ""
    since: datetime | None = None
    since_word: str = "first"
    href: str = ""
    act: str = "Look"


def in_order(items: Iterable[Attention]) -> list[Attention]:
    """Worst first."""
    return sorted(items, key=lambda one: (one.level, -one.weight, one.what))


def of_causes(
    fresh: UnresolvedCauses, stale: UnresolvedCauses, *, now: datetime
) -> Iterator[Attention]:
    """Causes that nobody has dealt with: those that still kill jobs, and those that did."""
    for level, found in ((Level.BROKEN, fresh), (Level.WARNING, stale)):
        for one in found.worst:
            several = "many types" if one.job_type is None else f"type {one.job_type}"
            cause = "" if one.count == 1 or one.is_overflow else " of one cause"
            again = " after it was resolved" if one.regressed else ""
            last = duration((now - one.last_seen).total_seconds())
            yield Attention(
                level,
                one.count,
                f"{_jobs(one.count)} of {several} failed for good{cause}{again}, "
                f"{'the last ' if one.count > 1 else ''}{last} ago",
                f"{one.kind}: {one.title}" if one.kind and one.kind != one.title else one.title,
                one.regressed_at or one.first_seen,
                "again" if one.regressed else "first",
                group_href(one.fingerprint),
                "See why",
            )
        if more := found.causes - len(found.worst):
            several = f"{number(more)} other cause{'' if more == 1 else 's'}"
            rest = found.jobs - sum(one.count for one in found.worst)
            yield Attention(
                level,
                _after(min(one.count for one in found.worst)),
                f"{_jobs(rest)} failed for good of {several}",
                href="/dashboard/dead-letters",
                act="See all",
            )


def of_unnamed(found: Sequence[UnnamedDead]) -> Iterator[Attention]:
    """Jobs that failed for good in the last hour, whose cause the leader has not named yet."""
    for one in found[:MAX_OF_A_KIND]:
        yield Attention(
            Level.BROKEN,
            one.jobs,
            f"{_jobs(one.jobs, exact=one.exact)} of type {one.job_type} failed for good in the last hour",
            one.last_error or "",
            one.first_at,
            href=jobs_href(status=FAILED, finished="<1h", type=one.job_type),
            act="See them",
        )
    if rest := found[MAX_OF_A_KIND:]:
        jobs = _jobs(sum(one.jobs for one in rest), exact=rest[0].exact)
        yield Attention(
            Level.BROKEN,
            _after(found[MAX_OF_A_KIND - 1].jobs),
            f"{jobs} of {number(len(rest))} more type{'' if len(rest) == 1 else 's'} failed for good"
            " in the last hour",
            since=min(one.first_at for one in rest),
            href=jobs_href(status=FAILED, finished="<1h"),
            act="See them",
        )


def of_queues(found: Sequence[QueueState], *, wait_seconds: float) -> Iterator[Attention]:
    """Queues whose jobs wait for long, and those that somebody paused."""
    late = [
        one
        for one in found
        if not one.paused and one.oldest_due_seconds and one.oldest_due_seconds >= wait_seconds
    ]
    late.sort(key=lambda one: (-one.due, one.name))
    for one in late[:MAX_OF_A_KIND]:
        yield Attention(
            Level.BROKEN,
            one.due,
            f"Queue {one.name}: its oldest due job has waited {duration(one.oldest_due_seconds)}",
            f"{_jobs(one.due, exact=one.exact)} due, {number(one.running)} running, "
            f"{number(one.workers)} worker{'' if one.workers == 1 else 's'} for it",
            href=queue_href(one.name),
            act="See it",
        )
    if len(late) > MAX_OF_A_KIND:
        more = len(late) - MAX_OF_A_KIND
        yield Attention(
            Level.BROKEN,
            _after(late[MAX_OF_A_KIND - 1].due),
            f"{number(more)} more {'queue waits' if more == 1 else 'queues wait'} so long",
            href="/dashboard/queues?sort=oldest",
            act="See all",
        )
    paused = sorted((one for one in found if one.paused), key=lambda one: (-one.due, one.name))
    for one in paused[:MAX_OF_A_KIND]:
        pause = one.pause
        by = f" by {pause.by}" if pause and pause.by else ""
        waits = f": {_jobs(one.due, exact=one.exact)} {_verb(one.due, 'wait')}" if one.due else ""
        yield Attention(
            Level.WARNING,
            one.due,
            f"Queue {one.name} is paused{by}{waits}",
            (pause and pause.reason) or "",
            pause and pause.since,
            "paused",
            queue_href(one.name),
            "See it",
        )
    if len(paused) > MAX_OF_A_KIND:
        more = len(paused) - MAX_OF_A_KIND
        yield Attention(
            Level.WARNING,
            _after(paused[MAX_OF_A_KIND - 1].due),
            f"{number(more)} more {'queue is' if more == 1 else 'queues are'} paused",
            href="/dashboard/queues",
            act="See all",
        )


def of_unserved(found: Sequence[UnservedType]) -> Iterator[Attention]:
    """Types whose jobs wait, and no worker serves them."""
    for one in found[:MAX_OF_A_KIND]:
        yield Attention(
            Level.BROKEN,
            one.jobs,
            f"No worker serves {one.job_type}: {_jobs(one.jobs)} of it {_verb(one.jobs, 'wait')}",
            "Start a worker that has its handler, or cancel them",
            one.served_at,
            "last served",
            jobs_href(type=one.job_type, status="PENDING"),
            "See them",
        )
    if rest := found[MAX_OF_A_KIND:]:
        yield Attention(
            Level.BROKEN,
            _after(found[MAX_OF_A_KIND - 1].jobs),
            f"No worker serves {number(len(rest))} more types whose jobs wait",
            since=min(one.served_at for one in rest),
            since_word="last served",
        )


def of_workers(found: Workers, *, due: int) -> Iterator[Attention]:
    """Workers that vanished, and jobs that wait while there is none."""
    if not found.alive and due:
        yield Attention(
            Level.BROKEN,
            due,
            f"No worker is alive, and {_jobs(due)} {'is' if due == 1 else 'are'} due",
        )
    if found.lost:
        names = ", ".join(name for name, _ in found.lost[:3])
        more = f" and {number(len(found.lost) - 3)} more" if len(found.lost) > 3 else ""
        several = "s" if len(found.lost) > 1 else ""
        yield Attention(
            Level.WARNING,
            len(found.lost),
            f"{number(len(found.lost))} worker{several} vanished without stopping",
            f"{names}{more}. Its jobs run again when their leases end",
            max(seen_at for _, seen_at in found.lost),
            "last seen",
            "/dashboard/workers",
            "See them",
        )


def of_operations(found: Iterable[Operation]) -> Iterator[Attention]:
    """Actions on many jobs that stopped before their end."""
    for one in found:
        if one.state in {OperationState.STOPPED, OperationState.FAILED}:
            why = "its canary failed" if one.state is OperationState.STOPPED else "its job died"
            yield Attention(
                Level.WARNING,
                one.expected,
                f"Operation {one.id} ({one.action.verb.value}, by {one.actor}) stopped: {why}",
                one.note or "",
                one.started_at,
                "started",
                f"/dashboard/operations/{one.id}",
                "Decide",
            )


def of_schedules(found: Sequence[Schedule]) -> Iterator[Attention]:
    """Schedules whose runs failed ten times in a row, and those that failures have paused."""
    for one in found[:MAX_OF_A_KIND]:
        paused = ", and it is paused" if one.is_paused else ""
        yield Attention(
            Level.BROKEN,
            one.failures,
            f"Schedule {one.name} failed {number(one.failures)} times in a row{paused}",
            f"{one.definition.timing.words}, jobs of type {one.definition.job_type}",
            one.last_tick_at,
            "last tick",
            schedule_href(one.name),
            "See it",
        )
    if len(found) > MAX_OF_A_KIND:
        more = len(found) - MAX_OF_A_KIND
        yield Attention(
            Level.BROKEN,
            _after(found[MAX_OF_A_KIND - 1].failures),
            f"{number(more)} more {'schedule fails' if more == 1 else 'schedules fail'} again and again",
            href="/dashboard/schedules",
            act="See all",
        )


def of_checks(checks: Iterable[Check]) -> Iterator[Attention]:
    """What keeps this process from its work."""
    for check in checks:
        if not check.ok:
            name = check.name.replace("_", " ")
            yield Attention(Level.BROKEN, float("inf"), f"This process: {name}", check.detail)


def _after(weight: float) -> float:
    """Of the rest of a kind: next to the last that is told by name."""
    return weight - 0.5


def _verb(count: int, verb: str) -> str:
    return f"{verb}s" if count == 1 else verb


def _jobs(count: int, *, exact: bool = True) -> str:
    return f"{'' if exact else 'at least '}{number(count)} job{'' if count == 1 else 's'}"
