"""Jobs that somebody follows, and what their processes tell of them.

A process with clients that wait for jobs sends `Follow` with their ids, again every
`FOLLOW_AGAIN_SECONDS`. Whichever process moves one of them sends `Moved`. While nobody follows a job, a
batch of jobs costs one comparison. Messages only reduce latency: who follows looks at the table as well.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from service.jobs.core.job import JobId
from service.jobs.notify.messages import MAX_IDS, Follow, Moved

FOLLOW_AGAIN_SECONDS: Final = 10.0
FOLLOWED_SECONDS: Final = 3 * FOLLOW_AGAIN_SECONDS
"""How long one `Follow` counts."""
MAX_FOLLOWED: Final = 20_000
"""Limit on the jobs of other processes' clients that one process remembers: any role may NOTIFY."""


class Followed:
    """The jobs of one database that somebody follows, in this process or in others."""

    def __init__(self, tell: Callable[[Follow | Moved], None], *, name: str = "") -> None:
        """`tell` sends a message to every process; `name` is this one's in its own `Follow`."""
        self._tell = tell
        self._name = name
        self._until: dict[JobId, float] = {}
        """Of jobs that are followed elsewhere; what was heard of last is last."""
        self.on_moved: Callable[[Collection[JobId]], None] | None = None
        """Called with jobs that moved, in whatever process. Set while this process follows any."""
        self.on_unsure: Callable[[], None] | None = None
        """Called when any job may have moved. Set while this process follows any."""

    @property
    def some(self) -> bool:
        """Whether anybody follows a job."""
        return bool(self._until) or self.on_moved is not None

    def follow(self, jobs: Collection[JobId]) -> None:
        """Tell the other processes that this one follows these jobs."""
        for ids in _in_messages(sorted(jobs)):
            self._tell(Follow(ids, self._name))

    def heard_follow(self, message: Follow) -> None:
        """A process follows these jobs."""
        if message.by == self._name:
            return
        now = time.monotonic()
        self._forget_old(now)
        for job_id in message.ids:
            self._until.pop(job_id, None)
            if len(self._until) >= MAX_FOLLOWED:
                return
            self._until[job_id] = now + FOLLOWED_SECONDS

    def moved_here(self, jobs: Iterable[JobId]) -> None:
        """Jobs moved in this process: tell whoever follows one of them."""
        moved = list(jobs)
        if self.on_moved is not None:
            self.on_moved(moved)
        if self._until:
            self._forget_old(time.monotonic())
            for ids in _in_messages([one for one in moved if one in self._until]):
                self._tell(Moved(ids))

    def heard_moved(self, message: Moved) -> None:
        """Jobs moved in another process, or were told of by this one."""
        if self.on_moved is not None:
            self.on_moved(message.ids)

    def unsure(self) -> None:
        """Jobs changed somewhere, and nobody says which."""
        if self.on_unsure is not None:
            self.on_unsure()

    def _forget_old(self, now: float) -> None:
        for job_id, until in list(islice(self._until.items(), MAX_IDS)):
            if until > now:
                return
            del self._until[job_id]


def _in_messages(ids: Sequence[JobId]) -> Iterator[tuple[JobId, ...]]:
    for first in range(0, len(ids), MAX_IDS):
        yield tuple(ids[first : first + MAX_IDS])
