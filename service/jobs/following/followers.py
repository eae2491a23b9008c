"""The clients of one process that wait for jobs, or read their events.

However many there are, the process listens with one connection and looks at their jobs with another: at
those that moved, once it hears of it, and at all of them once a second, in case a notification was lost.
Neither a connection of the pool nor a query of its own is held by one that waits. While nobody follows a
job, nothing runs.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.errors import Unavailable
from service.jobs import store
from service.jobs.core.job import JobId
from service.jobs.following.follower import Follower, Position, Reader
from service.jobs.following.state import JobState
from service.jobs.loops import Loop
from service.jobs.notify.followed import FOLLOW_AGAIN_SECONDS
from service.jobs.notify.listener import Listener
from service.jobs.notify.publisher import publisher_for
from service.jobs.read.logs import LoggedLine, line_of
from service.observability.logging import get_logger
from service.observability.metrics import (
    FOLLOWERS,
    FOLLOWERS_REFUSED,
    record_database_error,
)
from service.settings import Settings

LOOK_ALL_SECONDS: Final = 1.0
"""How often all jobs are looked at that somebody follows: the longest delay of a lost notification."""
GATHER_SECONDS: Final = 0.02
"""The shortest time from one look to the next."""
UNSURE_SECONDS: Final = 0.25
"""The shortest time between looks at all jobs, where something changed and nobody says what."""
FIRST_LOOK_SECONDS: Final = 0.1
"""When a job is looked at after a client began to follow it: it may have ended before others heard of that."""
LINGER_SECONDS: Final = 30.0
"""How long the process goes on to listen after its last follower has left: the next is often a moment away."""
MAX_IDS: Final = 1000
"""Jobs that one statement looks at."""
MAX_LINES: Final = 50
"""Lines that are read for one client at once."""
MAX_READERS: Final = 50
"""Clients that one statement reads lines for."""
MAX_UNTAKEN_LINES: Final = 5000
"""Lines that may wait for all clients of the process together. Beyond that those are dropped that have waited
the longest, and read again once their clients go on: one that does not read keeps no other from its lines."""
RETRY_SECONDS: Final = 5
"""When a client that found no place may ask again."""

_log = get_logger(__name__)

AnyFollower = TypeVar("AnyFollower", bound=Follower)


class Followers:
    """The clients of one process that follow jobs."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        listener: Listener,
        look_all_seconds: float = LOOK_ALL_SECONDS,
        max_untaken_lines: int = MAX_UNTAKEN_LINES,
    ) -> None:
        self.turn: Final = asyncio.Semaphore(max(1, settings.database_pool_size // 2))
        """Held while a client that has waited reads its job: when a thousand jobs end at once, their
        clients leave connections of the pool for other requests."""
        self._look_all_seconds = look_all_seconds
        self._max_untaken_lines = max_untaken_lines
        self._limit = settings.max_followers
        self._limit_each = settings.max_followers_per_caller
        self._link = database.link()
        self._listener = listener
        self._followed = publisher_for(database.engine).changes.followed
        self._by_job: dict[JobId, set[Follower]] = {}
        self._of_caller: Counter[str] = Counter()
        self._new: set[JobId] = set()
        """Jobs that the other processes are not told of yet."""
        self._moved: set[JobId] = set()
        self._is_unsure = False
        self._woken = asyncio.Event()
        self._some = asyncio.Event()
        self._last_left = 0.0
        self._loop = Loop("followers", self._run)
        self.closing = False

    def start(self) -> None:
        """Wait for the first client."""
        self._loop.start()

    def close(self) -> None:
        """Let every client go: the server waits for them. Safe in a signal handler."""
        self.closing = True
        for follower in self._all():
            follower.over.set()
            if isinstance(follower, Reader):
                follower.close()

    async def stop(self) -> None:
        """Look no more."""
        self.close()
        await self._loop.stop()
        await self._link.close()

    def wait(self, job_id: JobId, *, caller: str) -> Follower:
        """A client that waits for the end of a job.

        Raises:
            Unavailable: too many follow jobs in this process.
        """
        return self._enter(Follower(job_id, caller, left=self._left))

    def read(self, job_id: JobId, *, caller: str, after: Position) -> Reader:
        """A client that reads the events of a job, of its log what comes `after` a line.

        Raises:
            Unavailable: too many follow jobs in this process, or it stops.
        """
        return self._enter(
            Reader(job_id, caller, after=after, left=self._left, look=self._look_soon)
        )

    # -- who follows --------------------------------------------------------------------------

    def _enter(self, follower: AnyFollower) -> AnyFollower:
        if self.closing:
            FOLLOWERS_REFUSED.labels("stopping").inc()
            raise Unavailable("This process stops: ask again", retry_after_seconds=1)
        count, own = self._of_caller.total(), self._of_caller[follower.caller]
        if count >= self._limit:
            raise _refused(f"{count} clients wait for jobs here (MAX_FOLLOWERS)", why="process")
        if own >= self._limit_each:
            raise _refused(
                f"{own} of your requests wait for jobs here (MAX_FOLLOWERS_PER_CALLER)",
                why="caller",
            )
        self._of_caller[follower.caller] += 1
        FOLLOWERS.set(count + 1)
        self._by_job.setdefault(follower.job_id, set()).add(follower)
        self._new.add(follower.job_id)
        self._followed.on_moved, self._followed.on_unsure = self._have_moved, self._unsure
        self._some.set()
        self._woken.set()
        if isinstance(follower, Reader):
            self._moved.add(follower.job_id)
        asyncio.get_running_loop().call_later(FIRST_LOOK_SECONDS, self._look_soon, follower.job_id)
        return follower

    def _left(self, follower: Follower) -> None:
        others = self._by_job[follower.job_id]
        others.discard(follower)
        if not others:
            del self._by_job[follower.job_id]
        self._of_caller[follower.caller] -= 1
        if not self._of_caller[follower.caller]:
            del self._of_caller[follower.caller]
        self._last_left = time.monotonic()
        FOLLOWERS.set(self._of_caller.total())

    def _all(self) -> Iterable[Follower]:
        return [one for followers in self._by_job.values() for one in followers]

    # -- when to look -------------------------------------------------------------------------

    def _have_moved(self, jobs: Collection[JobId]) -> None:
        moved = [job_id for job_id in jobs if job_id in self._by_job]
        if moved:
            self._moved.update(moved)
            self._woken.set()

    def _look_soon(self, job_id: JobId) -> None:
        self._have_moved([job_id])

    def _unsure(self) -> None:
        self._is_unsure = True
        self._woken.set()

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            self._followed.on_moved, self._followed.on_unsure = self._have_moved, self._unsure
            self._listener.hold()
            try:
                await self._look_while_followed()
            finally:
                self._followed.on_moved = self._followed.on_unsure = None
                await self._listener.release()
                await self._link.close()
            if not self._by_job:
                self._some.clear()

    async def _look_while_followed(self) -> None:
        told_at = looked_at_all = 0.0
        while self._by_job or time.monotonic() - self._last_left < LINGER_SECONDS:
            await self._wait(looked_at_all)
            now = time.monotonic()
            if now - told_at >= FOLLOW_AGAIN_SECONDS:
                told_at, self._new = now, set(self._by_job)
            self._followed.follow(self._new)
            self._new = set()
            all_after = UNSURE_SECONDS if self._is_unsure else self._look_all_seconds
            jobs: Collection[JobId] = self._moved
            if now - looked_at_all >= all_after:
                looked_at_all, self._is_unsure = now, False
                jobs = list(self._by_job)
            self._moved = set()
            try:
                await self._look(jobs)
            except DATABASE_ERRORS as error:
                record_database_error("followers")
                _log.warning("followers_look_failed", jobs=len(jobs), error=type(error).__name__)
                await asyncio.sleep(LOOK_ALL_SECONDS)
            await asyncio.sleep(GATHER_SECONDS)

    async def _wait(self, looked_at_all: float) -> None:
        seconds = UNSURE_SECONDS if self._is_unsure else self._look_all_seconds
        if not self._moved and not self._new:
            try:
                async with asyncio.timeout(looked_at_all + seconds - time.monotonic()):
                    await self._woken.wait()
            except TimeoutError:
                pass
        self._woken.clear()

    # -- the look -----------------------------------------------------------------------------

    async def _look(self, jobs: Collection[JobId]) -> None:
        """Let those go whose jobs have ended, and give the readers what is new.

        Raises:
            DATABASE_ERRORS: the rest of the jobs is looked at again within a second.
        """
        readers = self._readers(jobs)
        read = {one.job_id for one in readers}
        for ids in _batches([one for one in jobs if one not in read], MAX_IDS):
            live = await store.following.still_live(self._link, ids)
            self._end(one for one in ids if one not in live)
        for ids in _batches(sorted(read), MAX_IDS):
            rows = await store.following.states(self._link, ids)
            self._tell_states(ids, {row[0]: JobState.of(row) for row in rows})
        for some in _batches(readers, MAX_READERS):
            await self._look_for_lines(some)

    def _readers(self, jobs: Iterable[JobId]) -> list[Reader]:
        followers = (one for job_id in jobs for one in self._by_job.get(job_id, ()))
        return [one for one in followers if isinstance(one, Reader)]

    def _end(self, jobs: Iterable[JobId]) -> None:
        for job_id in jobs:
            for follower in self._by_job.get(job_id, ()):
                follower.over.set()

    def _tell_states(self, jobs: Iterable[JobId], states: dict[JobId, JobState]) -> None:
        for job_id in jobs:
            state = states.get(job_id)
            for reader in self._readers([job_id]):
                reader.tell_state(state)
            if state is None or state.has_ended:
                self._end([job_id])

    async def _look_for_lines(self, readers: Sequence[Reader]) -> None:
        readers = [one for one in readers if not one.lines and not one.is_stalled]
        if not readers:
            return
        self._make_room(MAX_LINES * len(readers))
        began = time.monotonic()
        positions = [(one.job_id, *one.position) for one in readers]
        rows = await store.following.new_log_lines(self._link, positions, limit=MAX_LINES)
        lines: list[list[LoggedLine]] = [[] for _ in readers]
        for row in rows:
            lines[row[0] - 1].append(line_of(row[1:]))
        for reader, new in zip(readers, lines, strict=True):
            reader.tell_lines(new, began=began, all_read=len(new) < MAX_LINES)

    def _make_room(self, lines: int) -> None:
        """Take lines back that clients do not take, so that others can be told so many."""
        untaken = [one for one in self._readers(self._by_job) if one.lines]
        room = self._max_untaken_lines - sum(len(one.lines) for one in untaken)
        for one in sorted(untaken, key=lambda one: one.told_at):
            if room >= lines:
                return
            room += len(one.lines)
            one.take_back()


Item = TypeVar("Item")


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _refused(words: str, *, why: str) -> Unavailable:
    FOLLOWERS_REFUSED.labels(why).inc()
    return Unavailable(
        f"{words}: read the job without waiting, or ask again later",
        retry_after_seconds=RETRY_SECONDS,
    )
