"""What the end of an attempt means for its job: SUCCESS, another try, FAILED, DEAD_LETTER or CANCELLED.

Jobs whose workers died have a policy of their own: `poison.py`.
"""

from dataclasses import replace
from typing import Any, assert_never

from service.errors import InvalidInput, PayloadError
from service.jobs.core.attempt import Attempt, HandlerTimeout, InvalidPayload, Stop, TooLate
from service.jobs.core.backoff import Backoff
from service.jobs.core.elsewhere import EncodedResult, HandlerDied, RaisedElsewhere
from service.jobs.core.encoding import dump_json, load_json
from service.jobs.core.failures import MAX_MESSAGE_CHARS, Failure, clean_text
from service.jobs.core.outcomes import (
    SUCCEEDED_EMPTY,
    Cancelled,
    DeadLettered,
    Failed,
    HowCancelled,
    Outcome,
    PermanentError,
    Released,
    Retried,
    RetryAfter,
    Snooze,
    Snoozed,
    Succeeded,
    Suspend,
    Suspended,
    asked_seconds,
    clamp_delay,
    deciding,
)
from service.observability.logging import get_logger
from service.settings import Settings

_log = get_logger(__name__)


class OutcomePolicy:
    """Decides which outcome an attempt has; None where nothing is recorded."""

    def __init__(self, settings: Settings, *, worker_name: str) -> None:
        self._settings = settings
        self.worker_name = worker_name
        self._default_backoff = Backoff.from_settings(settings)

    def timeout_seconds(self, attempt: Attempt) -> float:
        """The job's own timeout, else its type's, else the service's."""
        return attempt.policy.timeout_of(attempt.job.timeout_seconds, self._settings)

    def is_last(self, attempt: Attempt) -> bool:
        """Whether a failure of this attempt ends the job."""
        return attempt.job.attempt > attempt.max_retries(self._settings)

    def returned(self, attempt: Attempt, value: Any, stop: Stop | None) -> Outcome | None:
        """The outcome of a handler that returned `value`; one that was cancelled swallowed that."""
        if stop is Stop.LEASE_LOST:
            return None
        if stop is Stop.TIMEOUT:
            return self.timed_out(attempt)
        if stop is Stop.CANCELLED:
            return Cancelled(HowCancelled.RETURNED, attempt.cancel_seen)
        if value is None:
            return SUCCEEDED_EMPTY
        try:
            text = self._encoded(value)
        except PayloadError as error:
            # The work is done; doing it again would give the same result.
            return self._permanent(attempt, error, reason="bad_result")
        return Succeeded(text)

    def _encoded(self, value: Any) -> str:
        if isinstance(value, EncodedResult):
            return value.json()
        return dump_json(value, what="result", max_bytes=self._settings.max_payload_bytes)

    def cancelled(
        self, attempt: Attempt, error: BaseException, stop: Stop | None
    ) -> Outcome | None:
        """The outcome of a handler that was cancelled, or raised CancelledError by itself."""
        match stop:
            case Stop.LEASE_LOST:
                return None
            case Stop.TIMEOUT:
                return self.timed_out(attempt)
            case Stop.SHUTDOWN | Stop.LEASE_UNSURE:
                return Released()
            case Stop.CANCELLED:
                return Cancelled(HowCancelled.STOPPED, attempt.cancel_seen)
            case None:
                return self._failed(attempt, error, reason="cancelled_itself")
        assert_never(stop)

    def raised(self, attempt: Attempt, error: BaseException, stop: Stop | None) -> Outcome | None:
        """The outcome of a handler that raised `error`."""
        if stop is Stop.LEASE_LOST:
            return None
        if stop is Stop.CANCELLED:
            began = not isinstance(error, TooLate)
            how = HowCancelled.STOPPED if began else HowCancelled.NOT_STARTED
            return Cancelled(how, attempt.cancel_seen)
        if isinstance(error, TooLate):
            return Released()
        if stop is Stop.TIMEOUT:
            return self._failed(attempt, error, reason="timeout")
        if stop is not None and not isinstance(deciding(error), PermanentError | Snooze | Suspend):
            # Drivers turn a cancellation in the middle of a call into an error of their own. The
            # worker caused it, not the job.
            return Released()
        return self._by_kind(attempt, error)

    def _by_kind(self, attempt: Attempt, error: BaseException) -> Outcome:
        match deciding(error):
            case Suspend() as wait:
                return Suspended(wait.step, wait.kind)
            case Snooze() | RetryAfter() as asked:
                return self._asked(attempt, error, asked)
            case PermanentError():
                return self._permanent(attempt, error, reason="permanent")
            case InvalidPayload():
                return self._permanent(attempt, error, reason="bad_payload")
            case HandlerDied():
                return self._failed(attempt, error, reason="died")
            case _:
                return self._failed(attempt, error, reason="error")

    def _asked(self, attempt: Attempt, error: BaseException, asked: Snooze | RetryAfter) -> Outcome:
        try:
            seconds = asked_seconds(asked)
        except ValueError as problem:
            _log.warning("bad_delay", job_id=attempt.job.id, job_type=attempt.job.job_type)
            note = f"its `seconds` must be a finite number, so the backoff applies: {problem}"
            return self._failed(attempt, error, reason="error", note=note)
        if isinstance(asked, Snooze):
            return Snoozed(seconds)
        return self._failed(attempt, error, delay_seconds=seconds, reason="retry_after")

    def timed_out(self, attempt: Attempt) -> Outcome:
        """The outcome of a handler that did not end in time."""
        seconds = self.timeout_seconds(attempt)
        error = HandlerTimeout(f"the handler took longer than its timeout of {seconds:g} s")
        return self._failed(attempt, error, reason="timeout")

    def stuck(self, attempt: Attempt, stop: Stop | None) -> Outcome | None:
        """What is recorded, without waiting for it, of a handler that ignores its cancellation."""
        if stop is Stop.TIMEOUT:
            return self.timed_out(attempt)
        if stop is Stop.CANCELLED:
            return Cancelled(HowCancelled.IGNORED, attempt.cancel_seen)
        return None if stop is Stop.LEASE_LOST else Released()

    def broken(self, attempt: Attempt, error: Exception) -> Outcome:
        """The outcome of an attempt whose own outcome could not be decided: that raised `error`.

        The job becomes FAILED. Where this process ran out of memory the attempt failed like any
        other, and may be retried: that is not the job's fault.
        """
        failure = Failure(
            attempt=attempt.job.attempt,
            type=type(error).__name__,
            message="What the handler did cannot be recorded: the job's row, or the error that it "
            "raised, cannot be read",
            started_at=attempt.started_at,
            worker=self.worker_name,
        )
        # Without the traceback: what could not be formatted once cannot be formatted now.
        _log.error("outcome_broken", job_id=attempt.job.id, error=type(error).__name__)
        if not isinstance(error, MemoryError):
            return Failed(failure, "error")
        if self.is_last(attempt):
            return DeadLettered(failure, "error")
        return Retried(self._default_backoff.delay_seconds(attempt.job.attempt), failure, "error")

    def reported(
        self,
        attempt: Attempt,
        failure: Failure,
        *,
        permanent: bool = False,
        delay_seconds: float | None = None,
    ) -> Outcome:
        """The outcome of an attempt whose worker tells what failed.

        Args:
            attempt: the attempt.
            failure: what failed.
            permanent: whether no retry could help, as with `PermanentError`.
            delay_seconds: when to retry in place of the backoff, as with `RetryAfter`.
        """
        if permanent:
            return Failed(failure, "permanent")
        if delay_seconds is None:
            return self._ended(attempt, failure, reason="error")
        seconds = clamp_delay(delay_seconds)
        return self._ended(attempt, failure, reason="retry_after", delay_seconds=seconds)

    def _failed(
        self,
        attempt: Attempt,
        error: BaseException,
        *,
        reason: str,
        delay_seconds: float | None = None,
        note: str = "",
    ) -> Outcome:
        failure = self._failure(attempt, error)
        if note:
            message = clean_text(f"{note} ({failure.message})", MAX_MESSAGE_CHARS)
            failure = replace(failure, message=message)
        return self._ended(attempt, failure, reason=reason, delay_seconds=delay_seconds)

    def _ended(
        self,
        attempt: Attempt,
        failure: Failure,
        *,
        reason: str,
        delay_seconds: float | None = None,
    ) -> Outcome:
        if self.is_last(attempt):
            return DeadLettered(failure, reason)
        if delay_seconds is None:
            # A row made by plain SQL may begin below 0.
            delay_seconds = self._backoff(attempt).delay_seconds(max(attempt.job.attempt, 1))
        return Retried(delay_seconds, failure, reason)

    def _permanent(self, attempt: Attempt, error: BaseException, *, reason: str) -> Outcome:
        return Failed(self._failure(attempt, error), reason)

    def _failure(self, attempt: Attempt, error: BaseException) -> Failure:
        if isinstance(error, RaisedElsewhere):
            return Failure(
                attempt=attempt.job.attempt,
                type=error.name,
                message=error.message,
                traceback=error.traceback,
                started_at=attempt.started_at,
                worker=self.worker_name,
            )
        return Failure.from_exception(
            error,
            attempt=attempt.job.attempt,
            started_at=attempt.started_at,
            worker=self.worker_name,
            chunk=attempt.chunk,
        )

    def _backoff(self, attempt: Attempt) -> Backoff:
        if attempt.job.backoff is not None:
            try:
                return Backoff.from_json(load_json(attempt.job.backoff))
            except (InvalidInput, TypeError, ValueError, OverflowError, RecursionError):
                # Enqueued by plain SQL, which checks nothing.
                _log.warning("bad_backoff", job_id=attempt.job.id, job_type=attempt.job.job_type)
        return attempt.policy.backoff or self._default_backoff
