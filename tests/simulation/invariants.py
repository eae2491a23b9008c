"""The invariant of a settlement: what was recorded of a run is what the run did."""

import json
from dataclasses import dataclass
from typing import Final

from service.jobs.core.job import JobStatus
from service.jobs.handlers.context import JobContext
from tests.simulation.clock import Process
from tests.simulation.rows import Row

RETURNED: Final = "returned"
SNOOZED: Final = "snoozed"
SUSPENDED: Final = "suspended"
EARLY_SECONDS: Final = 0.01
"""Timers may go off a little early."""

FOR_GOOD: Final = frozenset({"permanent", "bad result", "refused result"})
FAILED: Final = frozenset({"failed", "retry after", "cancelled itself"})


@dataclass(slots=True, eq=False)
class Run:
    """One run of a handler, by its own account."""

    process: Process
    context: JobContext
    started_at: float
    timeout_seconds: float
    ended: str = ""
    """How it ended; empty while it goes on."""
    of_earlier_epoch: bool = False
    """Whether its job was retried by hand since."""


def fits(
    run: Run | None, row: Row, verb: str, *, refund: bool, now: float, unrecordable: bool
) -> str:
    """What is wrong with a settlement; empty where nothing is.

    Args:
        run: the run under the settled claim; None where its handler never began.
        row: the job as it stands now.
        verb: `finish` or `requeue`.
        refund: whether the claim counts as no attempt.
        now: loop time.
        unrecordable: whether its end was sent alone, in vain, as often as the engine tries.
    """
    if run is None:
        # Given back before its handler began, or dead for the leases that it lost before.
        return "" if refund else f"{row.status} was recorded of no run"
    cancelled = run.context.cancelled
    if row.status is JobStatus.SUCCESS:
        allowed = run.ended == RETURNED
        if row.result is not None and json.loads(row.result)["of"] != run.context.lease_token:
            return f"the result of another run was recorded: {row.result}"
    elif row.status is JobStatus.FAILED:
        allowed = run.ended in FOR_GOOD or (
            run.ended == RETURNED
            and unrecordable
            and "could not be recorded" in (row.last_error or "")
        )
    elif verb == "requeue" and refund:
        allowed = cancelled or run.ended in {SNOOZED, SUSPENDED}
    else:
        # A run that is interrupted before its timeout, by a stop or a lost lease, has not failed.
        overtime = now - run.started_at >= run.timeout_seconds - EARLY_SECONDS
        allowed = run.ended in FAILED or (cancelled and overtime)
    how = f"{row.status}{' without an attempt' if refund else ''}"
    return "" if allowed else f"{how} was recorded of a run that {run.ended or 'goes on'}"
