"""How an attempt can end, and what a handler may raise to choose that."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final, assert_never

from service.jobs.core.backoff import MAX_DELAY_SECONDS
from service.jobs.core.elsewhere import RaisedElsewhere
from service.jobs.core.failures import Failure, causes_of, words_of
from service.jobs.core.job import JobStatus


class PermanentError(Exception):
    """Raise it in a handler when no retry could help: the job becomes FAILED at once."""


class RetryAfter(Exception):
    """Raise it in a handler to be retried after `seconds` in place of the backoff. Uses an attempt."""

    def __init__(self, seconds: float, message: str = "") -> None:
        super().__init__(message or f"asked to be retried in {seconds:g} s")
        self.seconds = clamp_delay(seconds)


class Snooze(Exception):
    """Raise it in a handler to be run again in `seconds`. Uses no attempt and records no error."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"snoozed for {seconds:g} s")
        self.seconds = clamp_delay(seconds)


class Suspend(BaseException):
    """Ends an attempt at a step that waits; the job goes on behind it once the wait is over.

    `ctx.sleep` and `ctx.wait_for_event` raise it: let it pass. Like `CancelledError` it is not an
    `Exception`, so that no handler takes it for a failure.
    """

    def __init__(self, step: str, kind: str) -> None:
        super().__init__(f"the job waits at its step {step!r}: {kind}")
        self.step = step
        self.kind = kind


def asked_seconds(error: RetryAfter | Snooze) -> float:
    """The delay until the next run that `error` asks for.

    Raises:
        ValueError: `seconds` is not a finite number, in a class that the handler derived.
    """
    try:
        seconds = float(error.seconds)
    except Exception as broken:  # of the handler's own error class
        raise ValueError(words_of(broken)) from None
    if not math.isfinite(seconds):
        raise ValueError(f"it is {seconds}")
    return clamp_delay(seconds)


def deciding(error: BaseException) -> BaseException:
    """The error that decides the outcome; in a group, the strictest of its errors.

    A PermanentError decides before all others, then the RetryAfter with the longest delay. A Snooze
    decides only where nothing failed: where every error of the group is one, or a Suspend. Of several
    Suspends the first does.
    """
    if isinstance(error, RaisedElsewhere):
        return error.decides
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = list(causes_of(error))
    for cause in causes:
        if isinstance(cause, PermanentError):
            return cause
    asking: list[RetryAfter | Snooze] = [one for one in causes if isinstance(one, RetryAfter)]
    if not asking:
        if not all(isinstance(one, Snooze | Suspend) for one in causes):
            return error
        asking = [one for one in causes if isinstance(one, Snooze)]
    return max(asking, key=_seconds_or_none) if asking else causes[0]


def _seconds_or_none(error: RetryAfter | Snooze) -> float:
    try:
        return asked_seconds(error)
    except ValueError:
        return -1.0


def clamp_delay(seconds: float) -> float:
    """`seconds` within 0 and a week; NaN counts as 0."""
    return 0.0 if math.isnan(seconds) else min(max(float(seconds), 0.0), MAX_DELAY_SECONDS)


# -- what is recorded -----------------------------------------------------------------------------
#
# Every outcome has a `status`, which its job takes; an `event` and a `reason`, which it is counted
# under; a `result` and a `failure` to keep, or None. `ends_job` tells which statement records it,
# `store.settle.finish` or `requeue`: the other attributes are columns of that statement.


class _Outcome:
    """What holds where an outcome says nothing else."""

    __slots__ = ()
    ends_job: ClassVar = True
    is_announced: ClassVar = False
    """Whether workers are notified: the job is due at once, and only this process knows."""


@dataclass(frozen=True, slots=True)
class Succeeded(_Outcome):
    """The handler returned; `result` is its value as JSON text, None for null."""

    status: ClassVar = JobStatus.SUCCESS
    event: ClassVar = "succeeded"
    reason: ClassVar = "ok"
    failure: ClassVar = None
    result: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLettered(_Outcome):
    """The last attempt failed (`outcome_policy.py`), or the job lost too many leases (`poison.py`)."""

    status: ClassVar = JobStatus.DEAD_LETTER
    event: ClassVar = "dead_lettered"
    result: ClassVar = None
    failure: Failure
    reason: str


@dataclass(frozen=True, slots=True)
class Failed(_Outcome):
    """The attempt failed, and a retry could not help."""

    status: ClassVar = JobStatus.FAILED
    event: ClassVar = "failed"
    result: ClassVar = None
    failure: Failure
    reason: str


class HowCancelled(StrEnum):
    """What became of the handler of a job that was cancelled."""

    NOT_STARTED = "not_started"
    """It did not run, or not again: the job waited, or its worker had died."""
    STOPPED = "stopped"
    RETURNED = "returned"
    """It returned before it could be stopped, or went on to its end; its result is not kept."""
    FAILED = "failed"
    """It failed before it could be stopped."""
    IGNORED = "ignored"
    """It ran on when its grace was over, and was not waited for."""


@dataclass(frozen=True, slots=True)
class Cancelled(_Outcome):
    """Somebody asked for the job's cancel, and its run has ended since, however it did."""

    status: ClassVar = JobStatus.CANCELLED
    event: ClassVar = "cancelled"
    result: ClassVar = None
    reason: HowCancelled
    seen: float | None = None
    """Monotonic time at which the worker heard of it."""
    failure: Failure | None = None

    @classmethod
    def in_place_of(cls, outcome: "Outcome", seen: float | None) -> "Cancelled":
        """What a run comes to that had another outcome, and was not told of the cancel in time."""
        match outcome:
            case Cancelled():
                return outcome
            case Succeeded() | Snoozed() | Suspended():
                return cls(HowCancelled.RETURNED, seen)
            case Released() | Postponed():
                return cls(HowCancelled.STOPPED, seen)
            case DeadLettered() | Failed() | Retried():
                return cls(HowCancelled.FAILED, seen, outcome.failure)
        assert_never(outcome)


class _Requeued(_Outcome):
    """The same, where the job stays PENDING."""

    __slots__ = ()
    ends_job: ClassVar = False
    status: ClassVar = JobStatus.PENDING
    result: ClassVar = None
    refund: ClassVar = 1
    """Attempts that are given back."""
    keeps_lost_leases: ClassVar = False
    """Whether the count of lost leases stays: it goes back to 0 once a handler ended by itself."""


@dataclass(frozen=True, slots=True)
class Retried(_Requeued):
    """The attempt failed and retries are left."""

    event: ClassVar = "retried"
    refund: ClassVar = 0
    step: ClassVar = None
    delay_seconds: float
    failure: Failure
    reason: str


@dataclass(frozen=True, slots=True)
class Snoozed(_Requeued):
    """The handler asked to be run again later; no attempt is used."""

    event: ClassVar = "snoozed"
    reason: ClassVar = "ok"
    failure: ClassVar = None
    step: ClassVar = None
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Suspended(_Requeued):
    """A step of the handler waits for its time or its event; no attempt is used."""

    event: ClassVar = "suspended"
    failure: ClassVar = None
    delay_seconds: ClassVar = None
    step: str
    """The job is due when this is over."""
    reason: str
    """The kind of the step."""


@dataclass(frozen=True, slots=True)
class Released(_Requeued):
    """The worker gave the job back unfinished; no attempt is used, its position is kept."""

    event: ClassVar = "released"
    reason: ClassVar = "ok"
    failure: ClassVar = None
    step: ClassVar = None
    delay_seconds: ClassVar = None
    keeps_lost_leases: ClassVar = True
    is_announced: ClassVar = True


@dataclass(frozen=True, slots=True)
class Postponed(_Requeued):
    """Not started: the job ran when workers died. It comes back later, apart from the others."""

    event: ClassVar = "postponed"
    reason: ClassVar = "ok"
    failure: ClassVar = None
    step: ClassVar = None
    keeps_lost_leases: ClassVar = True
    delay_seconds: float


Ending = Succeeded | DeadLettered | Failed | Cancelled
Requeueing = Retried | Snoozed | Suspended | Released | Postponed
Outcome = Ending | Requeueing

SUCCEEDED_EMPTY: Final = Succeeded()
"""The commonest outcome, made once."""
