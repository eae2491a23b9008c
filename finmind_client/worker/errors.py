"""What a handler raises to say what is to become of its job."""

from typing import Final

MAX_DELAY_SECONDS: Final = 604_800.0
"""A week: the service puts nothing off for longer."""


class PermanentError(Exception):
    """No retry could help: the job becomes FAILED at once."""


class _Delayed(Exception):  # named for what it says
    """Something that has a delay in seconds."""

    def __init__(self, seconds: float, message: str = "") -> None:
        self.seconds: Final = float(seconds)
        if not 0 <= self.seconds <= MAX_DELAY_SECONDS:
            raise ValueError(f"seconds is {seconds}: give 0 to {MAX_DELAY_SECONDS:.0f} (a week)")
        super().__init__(message or f"again in {self.seconds:g} s")

    def __reduce__(self) -> tuple[type["_Delayed"], tuple[float, str]]:
        """Exceptions are copied by their arguments."""
        return type(self), (self.seconds, str(self))


class RetryAfter(_Delayed):
    """The attempt failed, and the next one is to come in so many seconds, in place of the backoff.

    Raised in the last attempt it ends the job, as any other error does.
    """


class Snooze(_Delayed):
    """Nothing failed: the job is to run again in so many seconds. No attempt is used."""
