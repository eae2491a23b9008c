"""One client that follows one job."""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple, Self

from service.jobs.core.job import JobId
from service.jobs.following.state import JobState
from service.jobs.read.logs import LoggedLine


class Position(NamedTuple):
    """Of a line among those of its job; the first comes after (0, 0)."""

    token: int
    line: int


class Follower:
    """A client that waits for the end of a job: `with followers.wait(…) as follower`."""

    def __init__(self, job_id: JobId, caller: str, *, left: Callable[["Follower"], None]) -> None:
        self.job_id: Final = job_id
        self.caller: Final = caller
        self.over: Final = asyncio.Event()
        """Set when the job has ended or is deleted, or the service stops."""
        self._left = left

    def leave(self) -> None:
        """Give the place back; it can be given once only."""
        left, self._left = self._left, _nobody
        left(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


class Reader(Follower):
    """A client that reads the events of a job, as fast as it likes: what is not read is not gathered."""

    def __init__(
        self,
        job_id: JobId,
        caller: str,
        *,
        after: Position,
        left: Callable[["Follower"], None],
        look: Callable[[JobId], None],
    ) -> None:
        super().__init__(job_id, caller, left=left)
        self.position = after
        """Of the last line that was read from the database."""
        self.state: JobState | None = None
        """How the job stood last; None: not known yet, or deleted."""
        self.deleted = False
        self.closed = False
        """Whether the service stops."""
        self.lines: list[LoggedLine] = []
        """What was logged and not taken yet."""
        self.all_lines_at = 0.0
        """Monotonic time up to which every line that had been written is read."""
        self.told_at = 0.0
        """When it was told lines last (monotonic)."""
        self.is_stalled = False
        """Whether lines were taken back from it: no more are read until it asks for them."""
        self.news: Final = asyncio.Event()
        self._taken_to = after
        self._look = look

    def tell_state(self, state: JobState | None) -> None:
        """The job stands so; None: it is deleted."""
        if state != self.state or state is None or self.state is None:
            self.state, self.deleted = state, state is None
            self.news.set()

    def tell_lines(self, lines: list[LoggedLine], *, began: float, all_read: bool) -> None:
        """These lines were found by a look that `began` then."""
        if lines:
            self.lines, self.told_at = lines, began
            token, _, line = lines[-1].position.partition(".")
            self.position = Position(int(token), int(line))
        if all_read:
            self.all_lines_at = began
        if lines or self.deleted or (self.state is not None and self.state.has_ended):
            self.news.set()

    def close(self) -> None:
        """The service stops."""
        self.closed = True
        self.news.set()

    def take_lines(self) -> list[LoggedLine]:
        """The lines that came; from now on more are looked for."""
        lines, self.lines = self.lines, []
        self._taken_to = self.position
        if lines or self.is_stalled:
            self.is_stalled = False
            self._look(self.job_id)
        return lines

    def take_back(self) -> None:
        """Drop the lines that it has not taken: they are read again once it goes on."""
        self.position, self.lines = self._taken_to, []
        self.all_lines_at, self.is_stalled = 0.0, True

    def look_again(self) -> None:
        """Have the job looked at soon."""
        self._look(self.job_id)


def _nobody(_: Follower) -> None:
    """What a client that has left its place calls."""
