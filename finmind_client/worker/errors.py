"""What a handler raises to say what is to become of its job; the rules are those of handlers in the service."""

import math
from collections.abc import Iterator
from typing import Final

MAX_DELAY_SECONDS: Final = 604_800.0
"""A week: the service puts nothing off for longer."""


class PermanentError(Exception):
    """No retry could help: the job becomes FAILED at once."""


class RetryAfter(Exception):
    """The attempt failed, and the next one is to come in `seconds`, in place of the backoff.

    Raised in the last attempt it ends the job, as any other error does.
    """

    def __init__(self, seconds: float, message: str = "") -> None:
        super().__init__(message or f"asked to be retried in {seconds:g} s")
        self.seconds = clamp_delay(seconds)


class Snooze(Exception):
    """Nothing failed: the job is to run again in `seconds`. No attempt is used, and no error kept."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"snoozed for {seconds:g} s")
        self.seconds = clamp_delay(seconds)


def clamp_delay(seconds: float) -> float:
    """`seconds` within 0 and a week; NaN counts as 0."""
    return 0.0 if math.isnan(seconds) else min(max(float(seconds), 0.0), MAX_DELAY_SECONDS)


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The errors of a group and of the groups inside it, in order; of any other error itself."""
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseExceptionGroup):
            waiting += reversed(one.exceptions)
        else:
            yield one


def deciding(error: BaseException) -> BaseException:
    """The error that decides the outcome; in a group, the strictest of its errors.

    A PermanentError decides before all others, then the RetryAfter with the longest delay. A Snooze decides
    only where nothing failed.
    """
    causes = list(causes_of(error))
    for cause in causes:
        if isinstance(cause, PermanentError):
            return cause
    if asking := [one for one in causes if isinstance(one, RetryAfter)]:
        return max(asking, key=lambda one: clamp_delay(one.seconds))
    snoozing = [one for one in causes if isinstance(one, Snooze)]
    if len(snoozing) < len(causes):
        return error
    return max(snoozing, key=lambda one: clamp_delay(one.seconds))
