"""What one process does for workers that claim over HTTP: started and stopped with the service."""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from service.api.session import new_deadline
from service.auth.principal import KeyLimits
from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.errors import Unavailable
from service.jobs import store
from service.jobs.core.attempt import InvalidPayload
from service.jobs.core.claimed_job import Lease
from service.jobs.core.payload_keys import PayloadKeyMissing
from service.jobs.flow.queue_settings import QueueSettings
from service.jobs.handlers.payload import opened_payload
from service.jobs.loops import Loop
from service.jobs.notify.listener import Listener
from service.jobs.notify.messages import Cancel, Endings, Look, Message, Policies, Wake
from service.jobs.notify.publisher import publisher_for
from service.jobs.notify.subscriber import Subscription, notify_local
from service.jobs.worker.settler import Settler
from service.observability.logging import get_logger
from service.observability.metrics import (
    REMOTE_CLAIMS_WAITING,
    REMOTE_LINES,
    record_database_error,
)
from service.remote.beats import Beats
from service.remote.deadlines import Deadlines
from service.remote.heartbeats import Heartbeats
from service.remote.line import Line, Links
from service.remote.model import Beat, Handed, Kinds, Recorded, WaitingClaim
from service.remote.notes import Notes
from service.remote.outcomes import Decide, Outcomes
from service.remote.policies import policy_of
from service.remote.workers import Workers
from service.settings import Settings

MAX_LINES: Final = 200
"""Sets of types and queues that claims of one process wait for at once."""
MAX_LINES_PER_CALLER: Final = 20
LINE_IDLE_SECONDS: Final = 60.0
"""How long a line stays that nobody waits in: the next claim comes soon, as a rule."""
CLAIM_CONNECTIONS: Final = 2
"""Connections that lines claim over: one that walks far does not keep all others waiting."""
SETTLE_SECONDS: Final = 5.0
"""How long a stopping process tries to record the last outcomes."""

_log = get_logger(__name__)


class Gateway:
    """Lines of waiting claims, heartbeats and outcomes of workers elsewhere.

    Nothing that a lease depends on is kept here: any process of the service takes any call, and one that
    is killed costs its clients the answers that were on their way.
    """

    def __init__(self, database: Database, settings: Settings, *, listener: Listener) -> None:
        self._settings = settings
        self._listener = listener
        self._listens = False
        self._publisher = publisher_for(database.engine)
        self._claim_links = [database.link() for _ in range(CLAIM_CONNECTIONS)]
        lanes, hand_over, keys, settle, requeue, leases, workers = (
            database.link() for _ in range(7)
        )
        self._links = [*self._claim_links, lanes, hand_over, keys, settle, requeue, leases, workers]
        self._lanes, self._hand_over, self._keys, self._leases = lanes, hand_over, keys, leases
        self._queue_settings = QueueSettings()
        self._settler = Settler(
            settings,
            link=settle,
            requeue_link=requeue,
            changes=self._publisher.changes,
            told=self._tell_endings,
        )
        self._settler.on_permits_freed = self._permits_freed
        self.workers: Final = Workers(workers, settings)
        self._outcomes = Outcomes(settings, link=leases, settler=self._settler)
        self._beats = Beats(settings, link=leases, outcomes=self._outcomes)
        self.heartbeats: Final = Heartbeats(settings, beats=self._beats)
        self.notes: Final = Notes(settings, link=leases, changes=self._publisher.changes)
        self._deadlines = Deadlines(self._end_overdue)
        self._outcomes.on_settled = self._deadlines.forget
        self._beats.on_going = self._deadlines.watch
        self._lines: dict[Kinds, Line] = {}
        self._starting = asyncio.Lock()
        self._loops = [
            *self._settler.loops,
            Loop("remote_keeper", self._keep),
            Loop("remote_timeouts", self._deadlines.run),
            Loop("remote_workers", self.workers.run),
        ]
        self._subscription: Subscription | None = None
        self._closed = asyncio.Event()

    # -- its life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Take calls; the database is asked for nothing before the first."""
        self._subscription = Subscription(self._notified, is_worker=False)
        for loop in self._loops:
            loop.start()

    def close(self) -> None:
        """Answer every waiting claim: the server waits for them. Safe in a signal handler."""
        self._closed.set()
        self.heartbeats.close()
        for line in self._lines.values():
            line.close()

    async def stop(self) -> None:
        """Record what was reported, and close."""
        self.close()
        if self._subscription is not None:
            self._subscription.close()
        for kinds in list(self._lines):
            await self._lines.pop(kinds).stop()
        if not await self._settler.flushed(SETTLE_SECONDS):
            _log.error("remote_outcomes_not_recorded", jobs=self._settler.waiting)
        for loop in self._loops:
            await loop.stop()
        await self._listen_no_more()
        for link in self._links:
            await link.close()

    @property
    def waiting(self) -> int:
        """How many claims wait here."""
        return sum(line.waiting for line in self._lines.values())

    @property
    def lines(self) -> int:
        """For how many sets of types and queues."""
        return len(self._lines)

    # -- calls ------------------------------------------------------------------------------------

    async def claim(
        self, kinds: Kinds, claim: WaitingClaim, *, wait_seconds: float
    ) -> Sequence[Handed]:
        """Wait for jobs of these kinds up to so long.

        Raises:
            Unavailable: too many claims wait here, for too many different kinds of jobs, the database does
                not answer, or the process stops.
        """
        if self._closed.is_set():
            raise Unavailable(
                "This process stops: claim again, from another", retry_after_seconds=1
            )
        line = self._lines.get(kinds) or await self._new_line(kinds, claim.owner)
        waiting = self.waiting
        if waiting >= self._settings.remote_claims_waiting:
            raise Unavailable(
                f"{waiting} claims wait in this process (REMOTE_CLAIMS_WAITING): wait, and claim again",
                retry_after_seconds=5,
            )
        REMOTE_CLAIMS_WAITING.inc()
        try:
            return await line.wait(claim, wait_seconds)
        finally:
            REMOTE_CLAIMS_WAITING.dec()

    async def claimed_before(
        self, kinds: Kinds, *, worker_id: int, request_id: str
    ) -> Sequence[Handed] | None:
        """What the claim of that id brought, as far as its leases hold; None where it brought nothing yet."""
        leases = await store.remote_claims.before(
            self._leases, worker_id=worker_id, request_id=request_id
        )
        if leases is None:
            return None
        seconds = self._settings.lease_seconds
        extended = await store.leases.extend(self._leases, leases, lease_seconds=seconds)
        jobs = await store.leased_jobs.claimed(self._leases, extended, worker_id=worker_id)
        handed = []
        for job in jobs:
            policy = policy_of(job.job_type, kinds.policy(job.job_type))
            try:
                job.payload = opened_payload(job.payload, job.job_type, policy)
            except (InvalidPayload, PayloadKeyMissing):  # the claim after its lease settles it
                continue
            retries = policy.retries_of(job.max_retries, self._settings)
            timeout = policy.timeout_of(job.timeout_seconds, self._settings)
            handed.append(Handed(job, seconds, timeout, retries + 1))
        self._watch(handed)
        return handed

    async def stopped(self, owner: str, name: str) -> bool:
        """A worker stops in good order: its waiting claims end; whether it was known."""
        worker_id = await self.workers.stopped(owner, name)
        if worker_id is None:
            return False
        for line in self._lines.values():
            line.send_away({worker_id})
        return True

    async def beat(
        self,
        leases: Collection[Lease],
        *,
        limits: KeyLimits | None,
        deadline: float,
        wait_seconds: float = 0.0,
    ) -> Mapping[Lease, Beat]:
        """Extend leases; see `Beats`, and `Heartbeats` for those that wait."""
        if not leases:
            return {}
        if not wait_seconds or self.heartbeats.waiting >= self._settings.remote_claims_waiting:
            return await self._beats.beat(leases, limits=limits, deadline=deadline)
        self._listen()
        return await self.heartbeats.beat(
            leases, limits=limits, deadline=deadline, wait_seconds=wait_seconds
        )

    async def record(
        self,
        decisions: Mapping[Lease, Decide],
        *,
        limits: KeyLimits | None,
        deadline: float,
        call: str,
    ) -> Mapping[Lease, Recorded]:
        """Record outcomes; see `Outcomes`."""
        return await self._outcomes.record(decisions, limits=limits, deadline=deadline, call=call)

    # -- lines ------------------------------------------------------------------------------------

    async def _new_line(self, kinds: Kinds, owner: str) -> Line:
        async with self._starting:
            if (line := self._lines.get(kinds)) is not None:
                return line
            of_owner = sum(one.owner == owner for one in self._lines.values())
            if len(self._lines) >= MAX_LINES or of_owner >= MAX_LINES_PER_CALLER:
                raise Unavailable(
                    f"{of_owner} of your claims and {len(self._lines)} in all wait here for different sets "
                    f"of job_types and queues; {MAX_LINES_PER_CALLER} and {MAX_LINES} may: claim with "
                    "the same sets, and in the same order or not, in all of your workers",
                    retry_after_seconds=int(LINE_IDLE_SECONDS),
                )
            self._listen()
            line = self._make_line(kinds, owner)
            await line.start()
            self._lines[kinds] = line
            REMOTE_LINES.set(len(self._lines))
            return line

    def _make_line(self, kinds: Kinds, owner: str) -> Line:
        claim = self._claim_links[len(self._lines) % CLAIM_CONNECTIONS]
        return Line(
            self._settings,
            kinds=kinds,
            owner=owner,
            links=Links(claim, self._lanes, self._hand_over, self._keys),
            settler=self._settler,
            queue_settings=self._queue_settings,
            changes=self._publisher.changes,
            handed=self._watch,
        )

    def _watch(self, handed: Sequence[Handed]) -> None:
        for one in handed:
            self._deadlines.watch(one.job.lease, one.timeout_seconds)

    async def _end_overdue(self, leases: Collection[Lease]) -> None:
        await self._beats.end_overdue(leases, deadline=new_deadline(self._settings))

    async def _keep(self) -> None:
        """Tell that waiting workers live, and drop lines that nobody uses, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.heartbeat_seconds)
            await self._drop_idle_lines()
            ids = {one for line in self._lines.values() for one in line.worker_ids}
            if not ids:
                continue
            try:
                draining = await self.workers.waiting(ids)
            except DATABASE_ERRORS as error:
                record_database_error("remote_workers")
                _log.warning("remote_workers_not_seen", error=type(error).__name__)
                continue
            for line in self._lines.values():
                line.send_away(draining)

    async def _drop_idle_lines(self) -> None:
        old = time.monotonic() - LINE_IDLE_SECONDS
        for kinds, line in list(self._lines.items()):
            if line.idle and line.used_at < old:
                del self._lines[kinds]
                await line.stop()
        REMOTE_LINES.set(len(self._lines))
        if not (self._lines or self.heartbeats.waiting or self.heartbeats.used_at >= old):
            await self._listen_no_more()

    def _listen(self) -> None:
        if not self._listens:
            self._listens = True
            self._listener.hold()

    async def _listen_no_more(self) -> None:
        if self._listens:
            self._listens = False
            await self._listener.release()

    # -- what it is told --------------------------------------------------------------------------

    def _notified(self, message: Message) -> None:
        if isinstance(message, Wake | Look | Policies):
            for line in self._lines.values():
                line.claimer.notified(message)
        elif isinstance(message, Cancel):
            self.heartbeats.notified(message.ids)

    def _permits_freed(self, permits: Counter[str]) -> None:
        for line in self._lines.values():
            line.claimer.permits_freed(permits)

    def _tell_endings(self) -> None:
        """Others wait for jobs that ended here: a worker of some process acts on that."""
        if not notify_local(Endings()):
            self._publisher.tell(Endings())
