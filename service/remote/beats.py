"""Heartbeats of workers that claimed over HTTP: leases go on, timeouts and cancels are told."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Final

from service.auth.principal import KeyLimits
from service.db.connection import Link
from service.jobs import store
from service.jobs.core.attempt import Attempt
from service.jobs.core.claimed_job import Lease
from service.jobs.core.outcome_policy import OutcomePolicy
from service.jobs.core.outcomes import Cancelled, HowCancelled, Outcome
from service.jobs.store.leased_jobs import LeasedJob
from service.observability.logging import get_logger
from service.observability.metrics import REMOTE_ANSWERS
from service.remote.model import Beat
from service.remote.outcomes import Decide, Outcomes, may_have
from service.settings import Settings

LEASE_LOST: Final = Beat("lease_lost")

_log = get_logger(__name__)


class Beats:
    """Extends leases, and ends the runs that are over: by their timeout, or by a cancel that is ignored."""

    def __init__(self, settings: Settings, *, link: Link, outcomes: Outcomes) -> None:
        self._settings = settings
        self._link = link
        self._outcomes = outcomes
        self.on_going: Callable[[Lease, float], None] | None = None
        """Called with a run that goes on and in how many seconds it is over."""

    async def beat(
        self, leases: Collection[Lease], *, limits: KeyLimits | None, deadline: float
    ) -> dict[Lease, Beat]:
        """Extend these leases; what was found of each.

        Raises:
            Unavailable: the end of a run could not be recorded in time.
        """
        mine = await self._find(leases, limits=limits, deadline=deadline)
        beats = dict.fromkeys(leases, LEASE_LOST)
        over = await self._end(mine, limits=limits, deadline=deadline)
        beats |= {lease: Beat(why) for lease, why in over.items()}
        going = {lease: one for lease, one in mine.items() if self._over(one) is None}
        if going:
            beats |= await self._extend(going, deadline)
        for beat in beats.values():
            REMOTE_ANSWERS.labels("heartbeat", beat.state).inc()
        return beats

    async def end_overdue(self, leases: Collection[Lease], *, deadline: float) -> None:
        """End those of these runs that are over, whether or not their workers send heartbeats.

        Raises:
            Unavailable: the end of a run could not be recorded in time.
        """
        found = await self._find(leases, limits=None, deadline=deadline)
        for lease, why in (await self._end(found, limits=None, deadline=deadline)).items():
            _log.warning("remote_run_ended", job_id=lease[0], why=why)
        for lease, one in found.items():
            if self._over(one) is None and self.on_going is not None:
                self.on_going(lease, self._seconds_left(one))

    async def _find(
        self, leases: Collection[Lease], *, limits: KeyLimits | None, deadline: float
    ) -> dict[Lease, LeasedJob]:
        async with asyncio.timeout_at(deadline):
            found = await store.leased_jobs.running(self._link, leases)
        return {
            lease: one
            for lease, one in found.items()
            if may_have(limits, one.job.job_type, one.job.queue)
        }

    async def _end(
        self, found: Mapping[Lease, LeasedJob], *, limits: KeyLimits | None, deadline: float
    ) -> dict[Lease, str]:
        """Record the end of those that are over; why each ended."""
        over = {lease: why for lease, one in found.items() if (why := self._over(one)) is not None}
        if not over:
            return {}
        answers = await self._outcomes.record(
            {lease: _ENDS[why] for lease, why in over.items()},
            limits=limits,
            deadline=deadline,
            call="end",
        )
        return {lease: over[lease] for lease, one in answers.items() if one.answer != "lease_lost"}

    async def _extend(self, going: Mapping[Lease, LeasedJob], deadline: float) -> dict[Lease, Beat]:
        seconds = self._settings.lease_seconds
        async with asyncio.timeout_at(deadline):
            extended = await store.leases.extend(self._link, going, lease_seconds=seconds)
            asked = [lease for lease, cancel in extended.items() if cancel]
            if asked:
                for lease in await store.leased_jobs.note_cancel_seen(self._link, asked):
                    if self.on_going is not None:
                        self.on_going(lease, self._settings.cancel_grace_seconds)
        return {
            lease: Beat(
                "cancel" if cancel else "held",
                lease_seconds=seconds,
                timeout_in_seconds=max(0.0, self._seconds_left(going[lease])),
            )
            for lease, cancel in extended.items()
        }

    def _over(self, leased: LeasedJob) -> str | None:
        """Why a run has ended although its worker goes on; None where it has not."""
        seen = leased.cancel_seen_seconds
        if seen is not None:
            return "cancelled" if seen > self._settings.cancel_grace_seconds else None
        # One whose cancel nobody has told it of yet hears of that first.
        if leased.job.cancel_asked:
            return None
        return "timed_out" if self._seconds_left(leased) < 0 else None

    def _seconds_left(self, leased: LeasedJob) -> float:
        """Until the run is over."""
        if (seen := leased.cancel_seen_seconds) is not None:
            return self._settings.cancel_grace_seconds - seen
        policy = self._outcomes.attempt_of(leased).policy
        timeout = policy.timeout_of(leased.job.timeout_seconds, self._settings)
        return timeout - leased.running_seconds


def _timed_out(policy: OutcomePolicy, attempt: Attempt) -> Outcome:
    return policy.timed_out(attempt)


def _cancelled(_policy: OutcomePolicy, attempt: Attempt) -> Outcome:
    return Cancelled(HowCancelled.IGNORED, attempt.cancel_seen)


_ENDS: Final[dict[str, Decide]] = {"timed_out": _timed_out, "cancelled": _cancelled}
