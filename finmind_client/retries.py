"""When a call is made again, and how long after."""

import random
from dataclasses import dataclass
from typing import Final

import httpx

BUSY: Final = frozenset({429, 503})
"""The service says that it did nothing."""
BROKEN: Final = frozenset({408, 425, 500, 502, 504})
"""It, or what stands before it, may have done what was asked."""
UNSENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""The request has not reached the service."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a call is made again, with delays that grow and vary ("full jitter").

    Delays are drawn from 0 to `base_seconds · 2^n`, `cap_seconds` at most, so that many clients do not come
    back together. An answer's `Retry-After` is waited for, up to `longest_wait_seconds`; one that asks for
    more ends the call.
    """

    attempts: int = 5
    """Of a call in all; 1: it is made once."""
    base_seconds: float = 0.25
    cap_seconds: float = 8.0
    longest_wait_seconds: float = 30.0

    def delay(self, attempt: int, retry_after: float | None) -> float | None:
        """Seconds until the next attempt, after this many; None: it was the last."""
        if attempt >= self.attempts:
            return None
        longest = min(self.cap_seconds, self.base_seconds * 2.0 ** (attempt - 1))
        delay = random.uniform(0.0, longest)  # noqa: S311 - no secret
        if retry_after is None:
            return delay
        if retry_after > self.longest_wait_seconds:
            return None
        return retry_after + delay


def may_repeat(*, status: int | None, error: httpx.TransportError | None, repeatable: bool) -> bool:
    """Whether a call that failed so may be made again.

    Args:
        status: of the answer; None: there was none.
        error: why there was none.
        repeatable: whether to do it twice is to do it once.
    """
    if status is None:
        return repeatable or isinstance(error, UNSENT)
    return status in BUSY or (repeatable and status in BROKEN)
