"""One line of waiting claims: those that ask for the same types and queues, served in turn."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS
from service.errors import Unavailable
from service.jobs import store
from service.jobs.core.attempt import TooLate
from service.jobs.core.encoding import bytes_bound
from service.jobs.core.outcomes import Released
from service.jobs.flow.queue_settings import QueueSettings
from service.jobs.flow.queues import ALL, QueuePolicies
from service.jobs.flow.unique_turns import give_up_key
from service.jobs.loops import Loop
from service.jobs.notify.changes import Changes
from service.jobs.store.remote_claims import Given
from service.jobs.worker import lease_clock
from service.jobs.worker.claimer import Claimer
from service.jobs.worker.settler import Settler
from service.observability.logging import get_logger
from service.observability.metrics import observe_start_delay, record_database_error
from service.remote.desk import Desk, Wanted
from service.remote.model import Arrived, Handed, Kinds, WaitingClaim
from service.remote.policies import registry_of
from service.settings import Settings

MAX_ANSWER_BYTES: Final = 8 * 2**20
"""Limit on the payloads of one answer; a job that is larger comes alone."""

KEPT_LEASES: Final = 2
"""How long a claim can be asked for again, in leases: who lost the answer sends no heartbeats either."""

LOOK_SECONDS: Final = 5.0
"""How long a claim that is not to wait waits for the look that it asks for."""

MAX_HANDED_OVER: Final = 1000
"""Jobs that one statement hands over, and those of one claim more."""

SERVE_SECONDS: Final = 30.0
"""How long a claim that jobs are on their way to waits for them, when its own time is over."""

_log = get_logger(__name__)


class _Share(NamedTuple):
    """What a claim is given."""

    claim: WaitingClaim
    attempts: list[Arrived]


class Links(NamedTuple):
    """The connections of a line; others use them as well."""

    claim: Link
    lanes: Link
    hand_over: Link
    keys: Link


class Line:
    """Claims jobs for those who wait, as a worker does for its slots, and hands them over.

    Jobs are claimed under an id of the line's own and handed over with a statement that names the worker.
    What a claim took whose answer the database lost is found by that id, and given back.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        kinds: Kinds,
        owner: str,
        links: Links,
        settler: Settler,
        queue_settings: QueueSettings,
        changes: Changes,
        handed: Callable[[Sequence[Handed]], None],
    ) -> None:
        self._settings = settings
        self._links = links
        self._settler = settler
        self._handed = handed
        self.owner: Final = owner
        """Who asked for these kinds first."""
        queues = QueuePolicies(frozenset(kinds.queues or (ALL,)), {}, settings=queue_settings)
        self._slots = Wanted(queues)
        registry = registry_of(kinds)
        self._desk = Desk(
            settings, registry=registry, slots=self._slots, settler=settler, name="remote"
        )
        self._worker_id = 0
        self.claimer = Claimer(
            settings,
            registry=registry,
            link=links.claim,
            lanes_link=links.lanes,
            slots=self._slots,
            queues=queues,
            executor=self._desk,
            settler=settler,
            worker_id=lambda: self._worker_id,
            changes=changes,
        )
        self._claims = Loop("remote_claims", self.claimer.run)
        self._others = (
            Loop("remote_lanes", self.claimer.plan.watch_lanes),
            Loop("remote_hand_over", self._hand_over),
        )
        self.claimer.on_took_all = self._look_over
        self._looked = asyncio.Event()
        """Set after a look that left nothing, or when jobs are on their way; then there is a new one."""
        self._waiting: OrderedDict[WaitingClaim, None] = OrderedDict()
        self.used_at = time.monotonic()
        """When somebody waited here last."""

    @property
    def waiting(self) -> int:
        """How many claims wait."""
        return len(self._waiting)

    @property
    def worker_ids(self) -> set[int]:
        """Whose they are."""
        return {claim.worker_id for claim in self._waiting}

    @property
    def idle(self) -> bool:
        """Whether nobody waits, and nothing is left to be done."""
        return not (self._waiting or self._desk.runs or self.claimer.recovery.unsure)

    async def start(self) -> None:
        """Begin to claim.

        Raises:
            DATABASE_ERRORS: the database does not answer.
        """
        self._worker_id, now = await store.remote_claims.new_id(self._links.claim)
        self.claimer.plan.begin(now)
        for loop in (self._claims, *self._others):
            loop.start()

    async def stop(self) -> None:
        """Claim no more, and put back what was not handed over."""
        self.claimer.stop()
        self.close()
        await self._claims.join(timeout_seconds=self._settings.database_command_timeout_seconds)
        for loop in self._others:
            await loop.stop()
        for attempt in self._desk.take(len(self._desk.arrived), MAX_ANSWER_BYTES, _no_size):
            self._desk.put_back(attempt)

    async def wait(self, claim: WaitingClaim, seconds: float) -> Sequence[Handed]:
        """Wait for jobs; none where the time is over, or the worker is to claim no more.

        Raises:
            Unavailable: the database did not answer when jobs were handed over.
        """
        self._waiting[claim] = None
        self._slots.want(claim.limit)
        try:
            if seconds < self._settings.poll_max_seconds:
                await self._first_look(claim)
            await asyncio.wait({claim.answer}, timeout=seconds)
            if claim.served:
                await asyncio.wait({claim.answer}, timeout=SERVE_SECONDS)
            return claim.answer.result() if claim.answer.done() else ()
        finally:
            claim.gone = True
            self.used_at = time.monotonic()
            self._leave(claim)

    async def _first_look(self, claim: WaitingClaim) -> None:
        """Wait until it is known whether something is due: a claim that does not wait is no look by itself."""
        began = time.monotonic()
        self.claimer.look()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                while self.claimer.took_all_at < began and not (
                    claim.served or claim.answer.done()
                ):
                    await self._looked.wait()

    def _look_over(self) -> None:
        self._looked.set()
        self._looked = asyncio.Event()

    def send_away(self, worker_ids: set[int]) -> None:
        """Answer the claims of these workers: they are to claim no more."""
        for claim in [one for one in self._waiting if one.worker_id in worker_ids]:
            claim.sent_away = True
            self._answer(claim, ())
        self._look_over()

    def close(self) -> None:
        """Answer every claim: the process stops, and others serve the next ones."""
        for claim in list(self._waiting):
            self._answer(claim, ())
        self._look_over()

    def _leave(self, claim: WaitingClaim) -> None:
        if claim in self._waiting:
            del self._waiting[claim]
            self._slots.want_no_more(claim.limit)

    async def _hand_over(self) -> None:
        while True:
            await self._desk.some.wait()
            self._desk.some.clear()
            while self._desk.arrived:
                if shares := self._next_shares():
                    await self._serve(shares)
                    continue
                for attempt in self._desk.take(self._settings.claim_batch_size, 0, _no_size):
                    self._desk.put_back(attempt)

    def _next_shares(self) -> list[_Share]:
        """What arrived, for those who have waited longest: many are served with one statement."""
        shares: list[_Share] = []
        jobs = 0
        while self._desk.arrived and self._waiting and jobs < MAX_HANDED_OVER:
            claim, _ = self._waiting.popitem(last=False)
            attempts = self._desk.take(claim.limit, MAX_ANSWER_BYTES, _size_of)
            claim.served = True
            self._slots.want_no_more(claim.limit - len(attempts))
            shares.append(_Share(claim, attempts))
            jobs += len(attempts)
        return shares

    async def _serve(self, shares: Sequence[_Share]) -> None:
        self._look_over()
        try:
            for share in shares:
                await self._give_up_keys(share)
            held = await store.remote_claims.hand_over(
                self._links.hand_over,
                [
                    Given(attempt.job.lease, share.claim.worker_id, share.claim.request_id)
                    for share in shares
                    for attempt in share.attempts
                ],
                kept_seconds=KEPT_LEASES * self._settings.lease_seconds,
            )
        except DATABASE_ERRORS as error:
            record_database_error("hand_over")
            _log.warning("hand_over_failed", claims=len(shares), error=type(error).__name__)
            self._put_back(shares)
        except asyncio.CancelledError:
            self._put_back(shares)
            raise
        else:
            for share in shares:
                for attempt in share.attempts:
                    self._left(attempt)
                self._give(share.claim, [one for one in share.attempts if one.job.lease in held])

    async def _give_up_keys(self, share: _Share) -> None:
        for attempt in [one for one in share.attempts if one.job.unique_until_start is not None]:
            try:
                await give_up_key(self._links.keys, attempt.job)
            except TooLate:
                share.attempts.remove(attempt)
                self._settler.settle(attempt, Released())
                self._left(attempt)

    def _left(self, attempt: Arrived) -> None:
        self._desk.left(attempt)
        self._slots.want_no_more(1)

    def _put_back(self, shares: Sequence[_Share]) -> None:
        # Under their leases: whether or not the statement was carried out.
        for share in shares:
            for attempt in share.attempts:
                self._settler.settle(attempt, Released())
                self._left(attempt)
            if not share.claim.gone and not share.claim.answer.done():
                share.claim.answer.set_exception(
                    Unavailable(
                        "The database did not answer when jobs were handed over: claim again"
                    )
                )

    def _give(self, claim: WaitingClaim, attempts: Sequence[Arrived]) -> None:
        if claim.gone and claim.request_id is None:
            for attempt in attempts:  # nobody can ask for them again
                self._settler.settle(attempt, Released())
            return
        handed = [self._told(attempt) for attempt in attempts]
        for one in handed:
            observe_start_delay(one.job.queue, one.job.late_seconds)
        self._handed(handed)
        self._answer(claim, handed)

    def _told(self, attempt: Arrived) -> Handed:
        job, policy = attempt.job, attempt.policy
        return Handed(
            job,
            lease_seconds=max(0.0, attempt.lease_deadline - lease_clock.now()),
            timeout_seconds=policy.timeout_of(job.timeout_seconds, self._settings),
            max_attempts=attempt.max_retries(self._settings) + 1,
        )

    def _answer(self, claim: WaitingClaim, handed: Sequence[Handed]) -> None:
        self._leave(claim)
        if not claim.answer.done():
            claim.answer.set_result(handed)


def _size_of(attempt: Arrived) -> int:
    return bytes_bound(attempt.job.payload)


def _no_size(_: Arrived) -> int:
    return 0
