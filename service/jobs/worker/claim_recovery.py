"""Claims whose answers were lost: what they took is given back before its leases cost attempts."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Final

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS
from service.jobs import store
from service.jobs.core.attempt import Attempt
from service.jobs.core.claimed_job import Lease
from service.jobs.core.lane import KeysRequest, Lane, LaneRequest, Position
from service.jobs.loops import Pause
from service.jobs.notify.publisher import publish_over
from service.observability.logging import get_logger

UNSURE_SECONDS: Final = 2.0
"""How long after a claim's answer was lost its effect is looked for."""

_log = get_logger(__name__)


class ClaimRecovery:
    """Remembers what was asked in vain, and looks for what came of it."""

    def __init__(
        self,
        link: Link,
        *,
        worker_id: Callable[[], int],
        lease_seconds: float,
        held: Callable[[], AbstractSet[Attempt]],
    ) -> None:
        self._link = link
        self._worker_id = worker_id
        self._lease_seconds = lease_seconds
        self._held = held
        """What this worker knows to be its own."""
        self._lanes: dict[Lane, Position] = {}
        """Where claims looked whose answers were lost, and from where on."""
        self._keys: set[tuple[Lane, str]] = set()
        """The lanes whose keys such claims looked at, and behind which key they began."""
        self._asked_by: set[int] = set()
        """The ids that it claimed under: another one since its row was gone and entered anew."""
        self._until = 0.0

    @property
    def seconds_until_look(self) -> float:
        """How long at most to wait before the next look."""
        return UNSURE_SECONDS if self.unsure else float("inf")

    @property
    def unsure(self) -> bool:
        """Whether a claim whose answer was lost may have taken effect, or be about to."""
        return bool(self._lanes or self._keys)

    @contextmanager
    def expected(
        self, requests: Iterable[LaneRequest], *, keys: KeysRequest | None = None
    ) -> Iterator[None]:
        """Where the statement within fails, the server may have carried it out, or be about to."""
        worker_id = self._worker_id()
        try:
            yield
        except BaseException:
            self._asked_by.add(worker_id)
            for request in requests:
                start = self._lanes.get(request.lane, request.start)
                self._lanes[request.lane] = min(start, request.start)
            if keys is not None:
                self._keys.add((keys.lane, keys.after_key))
            self._until = time.monotonic() + UNSURE_SECONDS
            raise

    async def recover(self) -> None:
        """Give back what a claim took whose answer was lost.

        Raises:
            DATABASE_ERRORS: the database still does not answer; to be tried again.
        """
        if time.monotonic() > self._until + self._lease_seconds:
            self._forget()  # whoever looks for lost leases finds them
        if not self.unsure:
            return
        last = time.monotonic() > self._until
        lost = [
            lease for worker_id in sorted(self._asked_by) for lease in await self._find(worker_id)
        ]
        if lost and (given_back := await store.lost_claims.release(self._link, lost)):
            _log.warning("claim_given_back", jobs=given_back)
            await publish_over(self._link, self._lanes.keys() | {lane for lane, _ in self._keys})
        if last:
            self._forget()

    async def _find(self, worker_id: int) -> list[Lease]:
        """Those that it took under this id and that this worker does not know."""
        lost: list[Lease] = []
        known = sorted({run.job.lease_token for run in self._held()})
        if self._lanes:
            lanes = dict(sorted(self._lanes.items()))
            lost += await store.lost_claims.find(
                self._link, lanes, worker_id=worker_id, known=known
            )
        for lane, after_key in sorted(self._keys):
            lost += await store.claim_by_keys.find_lost(
                self._link, lane, after_key, worker_id=worker_id, known=known
            )
        return lost

    def _forget(self) -> None:
        self._lanes.clear()
        self._keys.clear()
        self._asked_by.clear()

    async def recover_wholly(self, drained: asyncio.Event) -> None:
        """Do so until the lost claim cannot be carried out any more: nobody comes after this.

        Args:
            drained: set once the worker waits for nothing else; until then there is time to try again.

        Raises:
            DATABASE_ERRORS: the database did not answer in all that time.
        """
        pause = Pause(longest_seconds=UNSURE_SECONDS / 4)
        while self.unsure:
            try:
                await self.recover()
            except DATABASE_ERRORS:
                if drained.is_set() and time.monotonic() > self._until:
                    raise
            if self.unsure:
                await pause.wait()
