"""The service under the probe, in a process whose wall clock is wrong by what a file says.

`python -m tests.chaos.clockwork worker`. The monotonic clock is right, as on a machine whose time is
set by hand: Linux never sets that one. If libfaketime is installed the tests use it, because it affects
every library; this module affects only Python code.
"""

import datetime as dt
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

OFFSET_VARIABLE: Final = "FAKETIME_TIMESTAMP_FILE"
"""Names the file: `+3600` is an hour ahead, as libfaketime reads it."""
READ_AGAIN_SECONDS: Final = 0.02

_right_time = time.time
_right_datetime = dt.datetime


class Clock:
    """What the process takes for the time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0.0
        self._read_at = float("-inf")

    def time(self) -> float:
        """In place of time.time."""
        now = time.monotonic()
        if now > self._read_at + READ_AGAIN_SECONDS:
            self._read_at = now
            self._offset = float(self._path.read_text())
        return _right_time() + self._offset

    def time_ns(self) -> int:
        """In place of time.time_ns."""
        return int(self.time() * 1e9)


def deceive(clock: Clock) -> None:
    """Set this process's clock; before anything that asks for the time is imported."""

    class Wrong(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return _right_datetime.fromtimestamp(clock.time(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return _right_datetime.fromtimestamp(clock.time(), dt.UTC).replace(tzinfo=None)

    time.time = clock.time
    time.time_ns = clock.time_ns
    dt.datetime = Wrong  # type: ignore[misc]


def main() -> int:
    """Run a command of the service."""
    deceive(Clock(Path(os.environ[OFFSET_VARIABLE])))
    from tests.chaos import probe

    return probe.main()


if __name__ == "__main__":
    sys.exit(main())
