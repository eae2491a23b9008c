"""Held jobs whose turn has come: claimed by whoever has slots free once permits are.

A worker that settles jobs knows which permits became free and looks for held jobs at once. A look each
second, while jobs are held, finds what nobody was told of: the permits of a process that died, a limit that
was raised. Those that a rate holds are looked for when their turn comes.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from service.db.connection import Link
from service.db.errors import REFUSED_ERRORS
from service.jobs import store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.holds import KEY, QUEUE, RATE, rate_of
from service.jobs.flow.queues import QueuePolicies
from service.jobs.handlers.registry import Registry
from service.observability.logging import get_logger
from service.settings import Settings

LOOK_SECONDS: Final = 1.0
"""How old may be what a process knows of limits, and how long a permit may be free unnoticed."""

UNKNOWN_HOLDS_SECONDS: Final = 5.0
"""How often a process that knows of no held job lists them while no queue has a limit or a rate: those that
another process held under a limit of their type, and died."""

LOOK_HOLDS: Final = 1000
"""Limits that one look tries; the next goes on behind them."""

_log = get_logger(__name__)


class HandOver:
    """Claims held jobs."""

    def __init__(
        self,
        settings: Settings,
        *,
        link: Link,
        registry: Registry,
        queues: QueuePolicies,
        worker_id: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._link = link
        self._registry = registry
        self._queues = queues
        self._worker_id = worker_id
        self._free: set[str] = set()
        """Limits that may have permits free and jobs held for them."""
        self._known: set[str] = set()
        """Limits that jobs are held for, as far as this process knows."""
        self._listed: set[str] = set()
        """Those of this round of looks, and what was held since it began."""
        self._after = ""
        self._limits: frozenset[str] = frozenset()
        """The queues with a limit or a rate at the last look."""
        self._looked_at = self._listed_at = float("-inf")

    def held(self, held_for: str) -> None:
        """A job was held for this limit or rate."""
        if held_for.startswith(RATE):
            self._queues.rates.held(held_for)
            return
        self._known.add(held_for)
        self._listed.add(held_for)

    def freed(self, permits: Counter[str]) -> None:
        """Jobs that had so many permits of each limit have settled."""
        self._free |= permits.keys() & self._known
        for permit, jobs in permits.items():
            self._queues.permits.freed(permit, jobs)

    def forget(self) -> None:
        """Somebody changed a limit: look before the next claim."""
        self._looked_at = self._listed_at = float("-inf")
        self._queues.rates.forget()

    @property
    def waiting(self) -> bool:
        """Whether permits may be free for held jobs."""
        return bool(self._free)

    @property
    def seconds_until_look(self) -> float:
        """How long until the next look; infinite while no job is held, as far as is known."""
        look_at = self._queues.rates.next_look_at
        if self._known or self._after:
            look_at = min(look_at, self._looked_at + LOOK_SECONDS)
        return max(0.0, look_at - time.monotonic())

    async def look(self) -> None:
        """Read limits, and what jobs are held for, unless that was done within the last second.

        Raises:
            DATABASE_ERRORS: the database did not answer.
        """
        if time.monotonic() >= self._looked_at + LOOK_SECONDS:
            looked_at = time.monotonic()
            await self._read_limits()
            settings = self._queues.settings
            limits = settings.limited | settings.rates.keys() | settings.rates_per_key.keys()
            likely = limits or self._limits - limits or self._known or self._after
            if likely or looked_at >= self._listed_at + UNKNOWN_HOLDS_SECONDS:
                await self._list_holds()
                self._listed_at = looked_at
            self._limits = limits
            self._looked_at = looked_at
        if holds := self._queues.rates.to_look_at():
            turns = await store.rate_limits.turns(self._link, holds)
            self._free.update(self._queues.rates.looked(holds, turns))

    async def _read_limits(self) -> None:
        queues = self._queues
        permits = await store.admission.queue_permits(self._link) if queues.settings.limited else {}
        queues.permits.read(permits)
        rates, per_key = queues.settings.rates, queues.settings.rates_per_key
        starts = await store.rate_limits.queue_starts(self._link) if rates else {}
        queues.rates.read(starts, rates, per_key)

    async def _list_holds(self) -> None:
        holds = await store.admission.holds(self._link, after=self._after, limit=LOOK_HOLDS)
        for held_for in holds:
            if held_for.startswith(RATE):
                self._queues.rates.holds_jobs(held_for)
        limits = [name for name in holds if name.startswith((KEY, QUEUE))]
        self._free.update(limits)
        self._known.update(limits)
        self._listed.update(limits)
        self._after = holds[-1] if len(holds) == LOOK_HOLDS else ""
        if not self._after:  # the end of a round
            self._known, self._listed = self._listed, set()

    async def claim(self, limit: int) -> list[ClaimedJob]:
        """Up to `limit` held jobs, as far as permits seem to be free for them.

        Raises:
            DATABASE_ERRORS: the database did not answer.
        """
        if not self._free or limit <= 0:
            return []
        # By chance, so that none starves: there may be more permits free than slots.
        holds = sorted(self._free)
        random.shuffle(holds)
        try:
            jobs = await self._claim(holds, limit)
        except REFUSED_ERRORS:
            jobs = await self._one_by_one(holds, limit)
        if len(jobs) < limit:
            self._free.difference_update(holds)
            came = {rate_of(job.queue, key) for job in jobs for key in (None, job.concurrency_key)}
            self._queues.rates.found_none(name for name in holds if name not in came)
        return jobs

    def within_own_limits(
        self, jobs: Sequence[ClaimedJob]
    ) -> tuple[Sequence[ClaimedJob], Sequence[ClaimedJob]]:
        """Those that WORKER_QUEUES lets this process run, and those beyond, which are to be given back.

        Held jobs are claimed by what they are held for, and the database knows nothing of a process's own
        limits. What is given back waits in its lane, where whoever may run more of its queue finds it.
        """
        queues = self._queues
        if not queues.limits:
            return jobs, ()
        taken: Counter[str] = Counter()
        within: list[ClaimedJob] = []
        beyond: list[ClaimedJob] = []
        for job in sorted(jobs, key=lambda job: (job.priority, job.due_at, job.id)):
            fits = taken[job.queue] < queues.allows_here(job.queue, len(jobs))
            (within if fits else beyond).append(job)
            taken[job.queue] += fits
        return within, beyond

    async def _claim(self, holds: list[str], limit: int) -> list[ClaimedJob]:
        queues = self._queues
        left_out = queues.settings.paused | {
            name for name in queues.limits if queues.allows_here(name, 1) <= 0
        }
        return await store.admission.claim_held(
            self._link,
            holds,
            self._registry.job_types(),
            queues=queues.served,
            left_out=sorted(left_out),
            type_limits=self._registry.limits_per_key(),
            limit=limit,
            lease_seconds=self._settings.lease_seconds,
            worker_id=self._worker_id(),
        )

    async def _one_by_one(self, holds: list[str], limit: int) -> list[ClaimedJob]:
        """The same where the claim of everything together is refused for a value in some row.

        A limit that is refused alone has its first job put back into its lane: claims of lanes end such
        a job (`refused_claims.py`).
        """
        claimed: list[ClaimedJob] = []
        for held_for in holds:
            if len(claimed) >= limit:
                break
            try:
                claimed += await self._claim([held_for], limit - len(claimed))
            except REFUSED_ERRORS as error:
                job_id = await store.admission.unhold_first(self._link, held_for)
                _log.error("held_job_refused", job_id=job_id, detail=str(error)[:200])
        return claimed
