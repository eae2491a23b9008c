"""Jobs with one unique key, one after the other: `unique_until_start` and `keep_latest`.

A job that has its key until it starts gives it up here, before its handler runs. When it has ended, or
waits for its next attempt, the next one with the key may start: the settle sees to it. `UniqueTurns` finds what
no settle could see, such as one whose transaction committed later; it is woken then, and regularly by
the leader's round.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS
from service.jobs import store
from service.jobs.core.attempt import TooLate
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import Lane
from service.jobs.loops import Pause
from service.jobs.notify.messages import Message, Wake
from service.jobs.notify.publisher import publish_over
from service.jobs.store.unique_turns import Next
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error, record_event

RETRY_SECONDS: Final = 5.0
"""How long it is tried to free a key while the database fails; then the job is given back."""

MAX_JOBS: Final = 1000
"""Limit on what one statement lets go."""

_log = get_logger(__name__)


async def give_up_key(link: Link, job: ClaimedJob) -> None:
    """Free the key of a job that has it until it starts.

    Raises:
        TooLate: the database does not answer: the job must not begin.
    """
    pause, until = Pause(), time.monotonic() + RETRY_SECONDS
    while True:
        try:
            await store.unique_turns.give_up_key(link.fetch, job.lease)
        except DATABASE_ERRORS as error:
            _failed("give_up_key", error)
            if time.monotonic() >= until:
                raise TooLate from error
            await pause.wait()
        else:
            return


async def start_next(
    link: Link, keys: Collection[str], *, supersede: bool, max_errors: int
) -> set[Lane]:
    """Let the jobs go that waited for those that have settled: their lanes.

    Args:
        link: the connection.
        keys: of the jobs that have settled.
        supersede: whether some of those wait for their next attempt: a newer one takes their place.
        max_errors: limit on the entries of a job's history.
    """
    try:
        if supersede:
            await _supersede(link, max_errors)
        return _lanes(await store.unique_turns.start_next(link.fetch, keys))
    except DATABASE_ERRORS as error:  # the next look finds them
        _failed("start_next", error)
        return set()


async def look(link: Link, *, max_errors: int) -> set[Lane]:
    """Let every job go that waits for another one with its key which does not run: their lanes.

    Raises:
        DATABASE_ERRORS: the database did not answer.
    """
    await _supersede(link, max_errors)
    started = _lanes(await store.unique_turns.start_all_next(link.fetch, limit=MAX_JOBS))
    if started:
        await publish_over(link, started)
    return started


class UniqueTurns:
    """Looks for jobs that may start whenever it is woken."""

    def __init__(self, link: Link, *, max_errors: int) -> None:
        self._link = link
        self._max_errors = max_errors
        self.on_released: Callable[[Message], None] | None = None
        """Called when jobs may start that were held: workers of other processes are notified."""
        self._some = asyncio.Event()

    def wake(self) -> None:
        """Look at what there is; returns at once."""
        self._some.set()

    async def run(self) -> None:
        """Look until cancelled."""
        pause = Pause()
        while True:
            await self._some.wait()
            self._some.clear()
            try:
                lanes = await look(self._link, max_errors=self._max_errors)
                pause.reset()
            except DATABASE_ERRORS as error:
                self._some.set()
                _failed("unique_turns", error)
                await pause.wait()
            else:
                if lanes and self.on_released is not None:
                    self.on_released(Wake(tuple(lanes)))


async def _supersede(link: Link, max_errors: int) -> None:
    ended = await store.unique_turns.supersede(link.fetch, limit=MAX_JOBS, max_errors=max_errors)
    for _, job_type in ended:
        record_event("cancelled", job_type, "superseded")


def _lanes(started: Sequence[Next]) -> set[Lane]:
    return {one.lane for one in started}


def _failed(what: str, error: Exception) -> None:
    record_database_error(what)
    _log.warning(f"{what}_failed", error=type(error).__name__, detail=str(error)[:200])
