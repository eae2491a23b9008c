"""An operation as the database keeps it, and its states.

                ┌──── pause ────▶ paused ────┐
    running ────┤                            ├── resume ──▶ running
                ├─ the canary ─▶ stopped ────┘
                ├─ its job dies ─▶ failed ───┘
                ├──── cancel ───▶ cancelled      (from paused, stopped and failed as well)
                └──── all done ─▶ done

`failed` is not stored: an operation is failed while it is to run and no live job runs it.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NewType

from service.jobs.core.bulk_action import BulkAction
from service.jobs.core.job import JobId, JobStatus

OperationId = NewType("OperationId", int)

JOB_TYPE: Final = "finmind.operation"
"""The type of the jobs that carry operations out."""


class OperationState(StrEnum):
    """Where an operation stands."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    """Its canary failed."""
    FAILED = "failed"
    """Its job died, or was deleted."""
    CANCELLED = "cancelled"
    DONE = "done"


RESUMABLE: Final = frozenset({OperationState.PAUSED, OperationState.STOPPED, OperationState.FAILED})
FINISHED: Final = frozenset({OperationState.CANCELLED, OperationState.DONE})


@dataclass(frozen=True, slots=True)
class Canary:
    """The first jobs, whose fate decides whether the others follow.

    Args:
        jobs: how many are retried first.
        max_failed_percent: share of them that may fail again.
        wait_seconds: how long their fate is waited for.
    """

    jobs: int
    max_failed_percent: float
    wait_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One action on many jobs, and how far it is."""

    id: OperationId
    action: BulkAction
    filter: dict[str, Any]
    """Names and values of the list's query; times are fixed."""
    state: OperationState
    note: str | None
    """Why it is in its state, where there is something to say."""
    job_id: JobId | None
    """The job that carries it out."""
    job_status: JobStatus | None
    started_at: datetime
    finished_at: datetime | None
    before_id: int
    """Only jobs below this id are still to be looked at."""
    expected: int
    """Jobs that matched at its start."""
    expected_exact: bool
    changed: int
    skipped: dict[str, int]
    """Jobs that were skipped, by reason."""
    rate: float | None
    """Limit on jobs per second."""
    canary: Canary | None
    canary_ids: tuple[JobId, ...]
    canary_until: datetime | None
    """Until when the fate of the canary is waited for; None: it is not complete, or decided."""
    canary_passed: bool
    """Whether the others follow: by its verdict, or since somebody resumed the operation."""
    actor: str
    reason: str | None

    @property
    def skipped_total(self) -> int:
        """Jobs that were skipped, for whatever reason."""
        return sum(self.skipped.values())

    @property
    def canary_state(self) -> str | None:
        """How its canary fares: `trying`, `waiting`, `passed`; None: it has none."""
        if self.canary is None:
            return None
        if self.canary_passed:
            return "passed"
        return "trying" if self.canary_until is None else "waiting"
