"""Every way in which an attempt can end: as a worker reports it, and as a handler does it."""

from service.jobs import PermanentError, RetryAfter, Snooze
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.failures import Failure
from service.jobs.core.outcomes import (
    DeadLettered,
    Failed,
    Outcome,
    Postponed,
    Released,
    Retried,
    Snoozed,
    Succeeded,
    Suspended,
)
from service.jobs.core.steps import StepKind

HOUR = 3600.0
BEHAVIOURS = ("return", "error", "permanent", "bad_result", "snooze", "retry_after")
STEP = "paid"
"""The step that jobs are suspended at: a wait for an event of this name."""
OUTCOMES = ("success", "retry", "retry_now", "dead", "failed", "snooze", "release", "postpone")


def outcome_of(kind: str, claim: ClaimedJob) -> Outcome:  # noqa: PLR0911 - one line an outcome
    """What a worker reports of the claim."""
    failure = Failure(attempt=claim.attempt, type="ValueError", message="bad")
    match kind:
        case "success":
            return Succeeded('{"n": 1}')
        case "retry" | "retry_now":
            return Retried(HOUR if kind == "retry" else 0.0, failure, "error")
        case "snooze":
            return Snoozed(HOUR)
        case "suspend":
            return Suspended(STEP, StepKind.EVENT)
        case "release":
            return Released()
        case "postpone":
            return Postponed(HOUR)
    return (DeadLettered if kind == "dead" else Failed)(failure, "error")


def behave(behaviour: str) -> object:
    """What a handler does in one attempt."""
    match behaviour:
        case "return":
            return {"n": 1}
        case "bad_result":
            return float("nan")
        case "permanent":
            raise PermanentError("no use")
        case "snooze":
            raise Snooze(HOUR)
        case "retry_after":
            raise RetryAfter(HOUR)
    raise ValueError("bad")
