"""What a process tells of its jobs' changes: dashboards while one is open somewhere, and who follows one.

A process that has a dashboard open sends `Watch` every few seconds. For `WATCHED_SECONDS` after one,
each process says `Changed` when its jobs have changed, once a second at most. While no dashboard is
open anywhere, a batch of jobs costs one comparison; another while nobody follows a job (`followed.py`).
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from service.jobs.core.job import JobId
from service.jobs.notify.followed import Followed

WATCHED_SECONDS: Final = 30.0
"""How long one `Watch` counts: three times as long as until the next."""
TELL_SECONDS: Final = 1.0
"""The shortest time from one `Changed` of this process to the next."""


class Changes:
    """What this process has to tell of the jobs of one database, and what it hears of others."""

    def __init__(self, tell: Callable[[], None], followed: Followed | None = None) -> None:
        """`tell` sends `Changed` to every process, this one among them."""
        self._tell = tell
        self.followed: Final = followed or Followed(lambda _: None)
        self._watched_until = 0.0
        self._told_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.on_heard: Callable[[], None] | None = None
        """Called when jobs changed, in this process or another."""

    def watch(self) -> None:
        """A dashboard is open somewhere."""
        self._watched_until = time.monotonic() + WATCHED_SECONDS

    def happened(self, jobs: Iterable[JobId] = ()) -> None:
        """Jobs changed in this process: tell the dashboards if there are any, and who follows one of these.

        `jobs` is not read while nobody follows any.
        """
        if time.monotonic() < self._watched_until:
            self.announce()
        if self.followed.some:
            self.followed.moved_here(jobs)

    def announce(self) -> None:
        """Tell the dashboards, whether or not this process has heard of any.

        For what is done by hand: a process without a worker listens to nobody.
        """
        if self._timer is None:
            wait = self._told_at + TELL_SECONDS - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, wait), self._send)

    def heard(self) -> None:
        """Jobs changed somewhere."""
        if self.on_heard is not None:
            self.on_heard()

    def close(self) -> None:
        """Tell nothing more that was put off."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self) -> None:
        self._timer = None
        self._told_at = time.monotonic()
        self._tell()
