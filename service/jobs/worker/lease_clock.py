"""The clock that leases are reckoned by.

A lease ends by the database's clock, which goes on while this machine is suspended. `time.monotonic`
and the event loop's clock stand still meanwhile on Linux: a worker that was suspended for an hour
would take its leases for good as long as before.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

LOOK_SECONDS: Final = 1.0
"""How soon after the machine goes on a pause notices that it is over."""


def now() -> float:
    """Seconds since some fixed moment, those of a suspension included."""
    # Where there is no CLOCK_BOOTTIME (macOS), the monotonic clock counts them.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


async def pause(seconds_left: Callable[[], float]) -> None:
    """Sleep until none are left."""
    await asyncio.sleep(min(seconds_left(), LOOK_SECONDS))
    while (left := seconds_left()) > 0:  # noqa: ASYNC110 - a clock, and no event, is waited for
        await asyncio.sleep(min(left, LOOK_SECONDS))
