"""The leader's part in dependencies: acts on what others left behind, forgets what nobody needs."""

from typing import Final

from service.db.connection import Link
from service.jobs import store
from service.jobs.flow.batches import look_at_due
from service.jobs.flow.endings import act
from service.jobs.notify.publisher import publish_over
from service.observability.logging import get_logger
from service.settings import Settings

MAX_ROUNDS: Final = 20
"""Limit on how often one round of duties takes ends to act on."""

BATCHES: Final = 1_000
"""Batches that one round looks at."""

LOOKED_AT: Final = 2_000
"""Dependencies that one round looks at for parents that ended and told nobody."""

DROPPED: Final = 5_000
"""Dependencies that one statement looks at for what is over its retention."""

MAX_BATCHES: Final = 40
"""Limit on those statements in one round."""

_log = get_logger(__name__)


class Dependencies:
    """Sees that no child waits for ever."""

    def __init__(self, link: Link, settings: Settings) -> None:
        self._link = link
        self._settings = settings
        self._next_look = self._next_drop = store.dependency_sweeps.START

    async def act_on_endings(self) -> None:
        """Act on ends that nobody acts on: of jobs that were cancelled or deleted, or after a crash."""
        for _ in range(MAX_ROUNDS):
            acted = await act(self._link, max_errors=self._settings.max_error_entries)
            if acted.lanes:
                await publish_over(self._link, acted.lanes)
            if not acted.taken:
                return

    async def look_at_batches(self) -> None:
        """Act on batches that a worker left behind, and on those whose members are to be cancelled."""
        lanes = await look_at_due(
            self._link, limit=BATCHES, max_errors=self._settings.max_error_entries
        )
        if lanes:
            await publish_over(self._link, lanes)

    async def look_at_parents(self) -> None:
        """Find parents that ended and told nobody, a part of the dependencies each time."""
        self._next_look, found = await store.dependency_sweeps.look_at_parents(
            self._link, after=self._next_look, limit=LOOKED_AT
        )
        if found:
            _log.warning("parents_ended_untold", parents=found)

    async def find_lost_members(self) -> None:
        """Have batches go on that wait for members which ended and told nobody."""
        lost = await store.dependency_sweeps.find_lost_members(self._link, limit=BATCHES)
        for batch_id, jobs in lost.items():
            _log.warning("batch_members_lost", batch_id=batch_id, jobs=jobs)

    async def drop_old(self) -> None:
        """Forget who waited for whom, once it is over its retention."""
        for _ in range(MAX_BATCHES):
            self._next_drop = await store.dependency_sweeps.drop_old(
                self._link,
                after=self._next_drop,
                days=self._settings.dependency_retention_days,
                limit=DROPPED,
            )
            if self._next_drop == store.dependency_sweeps.START:
                return
