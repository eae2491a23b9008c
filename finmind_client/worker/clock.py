"""The clock of leases, and pauses that grow."""

import random
import time
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", None) or getattr(time, "CLOCK_MONOTONIC", None)


def now() -> float:
    """Seconds since some fixed moment, those of a suspension of the machine included.

    A lease goes on while a laptop is closed; `time.monotonic` stands still meanwhile on Linux.
    """
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


class Pauses:
    """How long to wait after each failure in a row: longer each time, and never quite the same."""

    def __init__(self, first_seconds: float = 0.25, limit_seconds: float = 15.0) -> None:
        self._first_seconds = first_seconds
        self._limit_seconds = limit_seconds
        self.failures = 0

    def begin_anew(self) -> None:
        """Something worked."""
        self.failures = 0

    def after_failure(self, asked_seconds: float | None = None) -> float:
        """The next pause; one that the service asks for is kept to, up to a minute."""
        longest = min(self._limit_seconds, self._first_seconds * 2.0 ** min(self.failures, 20))
        self.failures += 1
        pause = longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        return pause + min(asked_seconds or 0.0, 60.0)
