"""Heartbeats that wait: each is answered once somebody asks for the cancel of one of its jobs."""

import asyncio
import math
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress

from service.api.session import new_deadline
from service.auth.principal import KeyLimits
from service.jobs.core.claimed_job import Lease
from service.jobs.core.job import JobId
from service.remote.beats import Beats
from service.remote.model import Beat
from service.settings import Settings


class Heartbeats:
    """The heartbeats that wait in one process, by the jobs that they name."""

    def __init__(self, settings: Settings, *, beats: Beats) -> None:
        self._settings = settings
        self._beats = beats
        self._waiting: dict[JobId, set[asyncio.Event]] = {}
        self._closed = False
        self.waiting = 0
        """How many wait."""
        self.used_at = -math.inf
        """When one waited here last (monotonic)."""

    async def beat(
        self,
        leases: Collection[Lease],
        *,
        limits: KeyLimits | None,
        deadline: float,
        wait_seconds: float,
    ) -> Mapping[Lease, Beat]:
        """Extend leases, and wait up to so long while nothing is to be told but that they hold.

        Raises:
            Unavailable: the end of a run could not be recorded in time.
        """
        with self._watching([job_id for job_id, _ in leases]) as told:
            found = await self._beats.beat(leases, limits=limits, deadline=deadline)
            began = time.monotonic()
            if self._closed or any(one.state != "held" for one in found.values()):
                return found
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await told.wait()
        if told.is_set() and not self._closed:
            deadline = new_deadline(self._settings)
            return await self._beats.beat(leases, limits=limits, deadline=deadline)
        waited = time.monotonic() - began
        return {lease: one.later(waited) for lease, one in found.items()}

    def notified(self, ids: Collection[JobId]) -> None:
        """Somebody asked for the cancel of these jobs; none: of more than could be named."""
        for one in ids or list(self._waiting):
            for told in self._waiting.get(one, ()):
                told.set()

    def close(self) -> None:
        """Answer those that wait, and have no other wait."""
        self._closed = True
        self.notified(())

    @contextmanager
    def _watching(self, ids: Collection[JobId]) -> Iterator[asyncio.Event]:
        told = asyncio.Event()
        for one in ids:
            self._waiting.setdefault(one, set()).add(told)
        self.waiting += 1
        try:
            yield told
        finally:
            self.waiting -= 1
            self.used_at = time.monotonic()
            for one in set(ids):
                self._waiting[one].discard(told)
                if not self._waiting[one]:
                    del self._waiting[one]
