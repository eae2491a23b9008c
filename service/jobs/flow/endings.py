"""Acts on the ends of jobs: lets children go or cancels them, counts for batches, enqueues callbacks.

What ended is noted in `job_endings` by the statement that ended it. Whoever takes a row from there acts on
it, and then drops it: cut off in between, it is taken again, and to act twice changes nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS
from service.jobs import store
from service.jobs.core.dependencies import DELETED, dooms
from service.jobs.core.job import DEAD, LIVE, JobId
from service.jobs.core.lane import Lane
from service.jobs.flow import batches
from service.jobs.flow.owed import pay
from service.jobs.loops import Pause
from service.jobs.notify.messages import Message, Wake
from service.jobs.notify.publisher import publish_over
from service.jobs.store.dependencies import Ending, Marked
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error, record_event

ENDINGS: Final = 500
"""Ends that are acted on together."""

CHILDREN: Final = 2_000
"""Children of those that one statement counts, lets go or cancels."""

AGAIN_SECONDS: Final = 10.0
"""After so long others act on what somebody has taken and not dropped."""

LEFT_SECONDS: Final = 0.5
"""After so long what was left, since somebody had locked it, is taken again."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Acted:
    """What became of the ends that were taken together."""

    taken: int = 0
    left: int = 0
    """Those that are taken again in a while, since somebody has locked what they are about."""
    lanes: frozenset[Lane] = frozenset()
    """With jobs that may start now."""


async def act(link: Link, *, max_errors: int) -> Acted:
    """Act on the next ends.

    Raises:
        DATABASE_ERRORS: the database failed; what was taken is taken again.
    """
    taken = await store.dependencies.take_endings(link, limit=ENDINGS, again_seconds=AGAIN_SECONDS)
    if not taken:
        return Acted()
    lanes = await pay(link, taken)
    ended, undecided = await _find_ended(link, taken)
    released, locked = await _count_for_children(link, ended, max_errors=max_errors)
    lanes |= released
    blocked = undecided | locked
    done = {ending.id for ending in taken if ending.job_id not in blocked}
    dropped, changed = await store.batches.settle_endings(link, done)
    if changed:
        lanes |= await batches.look(link, changed, max_errors=max_errors)
    if left := {ending.id for ending in taken} - dropped:
        await store.dependencies.give_back_endings(
            link, left, taken_before=AGAIN_SECONDS - LEFT_SECONDS
        )
    return Acted(len(taken), len(left), frozenset(lanes))


async def _find_ended(link: Link, taken: Sequence[Ending]) -> tuple[dict[JobId, str], set[JobId]]:
    """How these jobs ended, and which of them are to be looked at again.

    Those that have not ended tell of it when they do, and those that a person may retry once more.
    """
    told = [(ending.job_id, ending.status) for ending in taken if ending.job_id is not None]
    ended = {job_id: status for job_id, status in told if status is not None}
    asked = sorted({job_id for job_id, _ in told} - ended.keys())
    undecided: set[JobId] = set()
    if asked:
        await store.dependencies.flag(link, asked)
        # Behind the flag: a job that ends from now on tells of it by itself.
        states = await store.dependencies.states(link, asked)
        for job_id in asked:
            status, flagged = states.get(job_id, (DELETED, True))
            if status in LIVE | DEAD and not flagged:
                undecided.add(job_id)
            elif status not in LIVE:
                ended[job_id] = status
    return ended, undecided


async def _count_for_children(
    link: Link, ended: dict[JobId, str], *, max_errors: int
) -> tuple[set[Lane], set[JobId]]:
    """Count ended parents for all their children, page by page.

    Returns:
        The lanes with jobs that may start now, and the parents of children that somebody has locked.
    """
    lanes: set[Lane] = set()
    locked: set[JobId] = set()
    after, parents = (0, 0), sorted(ended.items())
    while parents:
        page = await store.dependencies.mark(link, parents, after=after, limit=CHILDREN)
        blocked = await _cancel(link, page, max_errors=max_errors)
        released = await store.dependencies.release(
            link, sorted({one.child_id for one in page if one.met})
        )
        for job_id, free in released.items():
            if free is None:
                blocked.add(job_id)
            else:
                lanes.add(free)
        locked |= {one.parent_id for one in page if one.child_id in blocked}
        if len(page) < CHILDREN:
            break
        after = page[-1].parent_id, page[-1].child_id
    return lanes, locked


async def _cancel(link: Link, page: Sequence[Marked], *, max_errors: int) -> set[JobId]:
    """Cancel the children that have nothing to wait for; those that somebody has locked."""
    failed = {one.child_id: one for one in page if not one.met and dooms(one.policy, one.status)}
    if not failed:
        return set()
    cancelled = await store.dependencies.cancel(link, list(failed.values()), max_errors=max_errors)
    for job_type in cancelled.values():
        if job_type is not None:
            record_event("cancelled", job_type, "parent")
    return {job_id for job_id, job_type in cancelled.items() if job_type is None}


class Endings:
    """Acts on ends whenever it is woken. The leader wakes one regularly: no end is forgotten."""

    def __init__(self, link: Link, *, max_errors: int) -> None:
        self._link = link
        self._max_errors = max_errors
        self.on_released: Callable[[Message], None] | None = None
        """Called when jobs may start that were held: workers of other processes are notified."""
        self.releases = 0
        """How often jobs could start for what was done."""
        self._some = asyncio.Event()
        self._acting = asyncio.Lock()

    def wake(self) -> None:
        """Act on what there is; returns at once."""
        self._some.set()

    async def run(self) -> None:
        """Act until cancelled."""
        pause = Pause()
        while True:
            await self._some.wait()
            self._some.clear()
            try:
                await self.act_on_all()
                pause.reset()
            except DATABASE_ERRORS as error:
                self._some.set()
                record_database_error("endings")
                _log.warning("endings_failed", error=type(error).__name__)
                await pause.wait()

    async def act_on_all(self) -> None:
        """Act until there is nothing left.

        Raises:
            DATABASE_ERRORS: the database failed.
        """
        async with self._acting:
            acted = Acted(taken=ENDINGS)
            while acted.taken:
                acted = await act(self._link, max_errors=self._max_errors)
                if acted.left:
                    asyncio.get_running_loop().call_later(LEFT_SECONDS, self.wake)
                if acted.lanes:
                    self.releases += 1
                    await self._announce(acted.lanes)

    async def _announce(self, lanes: frozenset[Lane]) -> None:
        if self.on_released is not None:
            self.on_released(Wake(tuple(lanes)))
        await publish_over(self._link, lanes)

    async def finished(self, timeout_seconds: float) -> None:
        """Wait until what was begun is done: others would take it only after `AGAIN_SECONDS`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds), self._acting:
                self._some.clear()
