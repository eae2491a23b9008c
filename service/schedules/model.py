"""A schedule as the database keeps it, and its ticks.

a tick comes ─▶ fired        its job was enqueued
             ├▶ skipped      the run before had not ended (`overlap`), or no job could be made
             └▶ missed       nobody was there to see it, and `catch_up` does not ask for it
a backfill  ──▶ backfilled, skipped
by hand     ──▶ fired
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NewType

from service.jobs.core.job import JobId
from service.schedules.timing import Timing

ScheduleId = NewType("ScheduleId", int)

PAUSED_BY_CODE: Final = "code"
"""Who has paused a schedule whose decorator is gone: it goes on when that comes back."""
PAUSED_BY_FAILURES: Final = "failures"
"""Who has paused a schedule whose runs failed `pause_after_failures` times in a row."""

FAILING: Final = 10
"""Runs that fail in a row before a schedule is shown as failing."""


class Overlap(StrEnum):
    """What becomes of a tick while a run before it has not ended."""

    SKIP = "skip"
    """It is skipped."""
    QUEUE_ONE = "queue_one"
    """One run waits for that end; further ticks are skipped."""
    QUEUE_ALL = "queue_all"
    """Every run waits for the one before it."""
    CANCEL_OTHER = "cancel_other"
    """That run is cancelled, and the new one starts once it has ended."""
    ALLOW = "allow"
    """Both run."""


class CatchUp(StrEnum):
    """What becomes of ticks that came while no process was there."""

    ONE = "one"
    """The newest of them within the window runs."""
    ALL = "all"
    """Each of them within the window runs."""
    NONE = "none"
    """None runs."""


class TickOutcome(StrEnum):
    """What became of a tick."""

    FIRED = "fired"
    SKIPPED = "skipped"
    MISSED = "missed"
    BACKFILLED = "backfilled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What is due, when, and how it runs.

    Args:
        timing: the rule of its ticks.
        job_type: of the jobs that it enqueues.
        payload: of its jobs.
        tick_member: the member of their payloads that tells each its tick; none where None.
        queue: where they wait.
        priority: 0 (most urgent) to 9; 2 where None.
        max_retries: of each; the handler's where None.
        timeout_seconds: of one attempt; the handler's where None.
        concurrency_key: of each.
        overlap: what becomes of a tick while a run before it has not ended.
        catch_up: what becomes of ticks that nobody was there for.
        catch_up_seconds: how late a tick may still run.
        jitter_seconds: limit on how long after its tick a run is due; another for each tick.
        pause_after_failures: after so many failed runs in a row it is paused; never where None.
    """

    timing: Timing
    job_type: str
    payload: dict[str, Any]
    queue: str
    tick_member: str | None = None
    priority: int | None = None
    max_retries: int | None = None
    timeout_seconds: float | None = None
    concurrency_key: str | None = None
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.ONE
    catch_up_seconds: float = 3600.0
    jitter_seconds: float = 0.0
    pause_after_failures: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A named rule that enqueues a job at each tick, and how it stands."""

    id: ScheduleId
    name: str
    definition: Definition
    owner: str | None
    """The service whose code defines it; None: it was made by hand."""
    created_by: str | None
    """The caller who made it, and whose its jobs are."""
    created_at: datetime
    changed_at: datetime
    pinned_by: str | None
    """Who changed it by hand: its code no longer does."""
    declared: dict[str, Any] | None
    """What its code says."""
    paused_at: datetime | None
    paused_by: str | None
    pause_reason: str | None
    last_tick_at: datetime | None
    """The last tick that was decided."""
    next_tick_at: datetime | None
    """None: it is paused, or no tick is left."""
    due_at: datetime | None
    """When the next tick is acted on: with its jitter."""
    failures: int
    """Runs that failed since the last one that succeeded."""

    @property
    def is_paused(self) -> bool:
        """Whether no tick of it is acted on."""
        return self.paused_at is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """An entry of the ledger: one tick, or some that were missed in a row."""

    id: int
    planned_at: datetime
    until: datetime | None
    """The last of several that were missed in a row."""
    ticks: int
    outcome: TickOutcome
    reason: str | None
    decided_at: datetime
    job_id: JobId | None
    run_status: str | None
    """How its job ended; None: it has not, or there is none."""
