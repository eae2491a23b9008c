"""What became of jobs, until the service has taken it: many with one call."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from finmind_client.errors import ApiError, FinMindError
from finmind_client.worker import calls, clock
from finmind_client.worker.claimed import Lease
from finmind_client.worker.connection import Connection, asked_pause, is_refused_content, log
from finmind_client.worker.notes import Notes
from finmind_client.worker.outcomes import Outcome, Verb

MAX_CALL_BYTES: Final = 500_000
"""Of the reports of one call; a larger one goes alone. The service takes a million."""
TRY_SECONDS: Final = 300.0
"""How long a report is tried for. Once its lease is over it still counts, unless another has the job."""


@dataclass(slots=True)
class _Waiting:
    lease: Lease
    outcome: Outcome
    until: float
    refused: bool = False
    """Whether what was to be reported was refused, and this says so instead."""


class Reports:
    """Sends outcomes in order; what gathers while one call runs goes out with the next."""

    def __init__(self, connection: Connection, notes: Notes) -> None:
        self._connection = connection
        self._notes = notes
        self._waiting: dict[Lease, _Waiting] = {}
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    @property
    def leases(self) -> Sequence[Lease]:
        """Those whose reports wait: they are kept until then."""
        return tuple(self._waiting)

    def add(self, lease: Lease, outcome: Outcome) -> None:
        """An attempt has come to its end."""
        self._notes.settled(lease)
        self._waiting[lease] = _Waiting(lease, outcome, clock.now() + TRY_SECONDS)
        self._none.clear()
        self._some.set()

    async def none_left(self, seconds: float) -> bool:
        """Wait up to so long until all are taken; whether they are."""
        try:
            async with asyncio.timeout(seconds):
                await self._none.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Send what there is until cancelled."""
        pauses = clock.Pauses(0.2, 5.0)
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                await self._notes.flush()  # lines are kept only before the report
                failed = await self._send_all()
                if failed is None:
                    pauses.begin_anew()
                    continue
                self._give_up()
                await asyncio.sleep(pauses.after_failure(asked_pause(failed)))
            self._none.set()

    async def _send_all(self) -> FinMindError | None:
        """Send each that waits, once; why one of the calls brought nothing."""
        failures = await asyncio.gather(*(self._send(batch) for batch in self._batches()))
        return next((error for error in failures if error is not None), None)

    def _batches(self) -> list[list[_Waiting]]:
        """The first few batches of each kind."""
        by_verb: dict[Verb, list[_Waiting]] = defaultdict(list)
        sizes: dict[Verb, int] = defaultdict(int)
        for one in self._waiting.values():
            verb, size = one.outcome.verb, len(one.outcome.members) + 60
            batch = by_verb[verb]
            if batch and (sizes[verb] + size > MAX_CALL_BYTES or len(batch) >= calls.MAX_LEASES):
                continue  # with the next round
            batch.append(one)
            sizes[verb] += size
        return list(by_verb.values())

    async def _send(self, batch: Sequence[_Waiting]) -> FinMindError | None:
        reports = [(one.lease, one.outcome.members) for one in batch]
        call = calls.report(self._connection.worker, batch[0].outcome.verb, reports)
        try:
            told = await self._connection.send(call)
        except FinMindError as error:
            return await self._narrow(batch, error) if is_refused_content(error) else error
        for one in told:
            if one.outcome == "lease_lost":
                log.warning(
                    "Job %d was not this worker's any more when it was reported", one.lease.id
                )
        for sent in batch:
            self._over(sent)
        return None

    async def _narrow(self, batch: Sequence[_Waiting], error: FinMindError) -> FinMindError | None:
        """One report that is refused takes no other along: halve, down to it."""
        if len(batch) > 1:
            middle = len(batch) // 2
            first = await self._send(batch[:middle])
            return await self._send(batch[middle:]) or first
        (one,) = batch
        if one.refused:
            log.error("Job %d cannot be reported, and will run again: %s", one.lease.id, error)
            self._over(one)
            return None
        detail = error.detail if isinstance(error, ApiError) else str(error)
        log.warning("The report of job %d was refused: %s", one.lease.id, error)
        one.outcome = Outcome.failed(
            "ReportRefused",
            f"the service refused the job's {one.outcome.verb}: {detail}",
            permanent=one.outcome.verb == "complete",
        )
        one.refused = True
        return None

    def _give_up(self) -> None:
        for one in [one for one in self._waiting.values() if one.until < clock.now()]:
            log.error(
                "Job %d could not be reported in %.0f s, and will run again",
                one.lease.id,
                TRY_SECONDS,
            )
            self._over(one)

    def _over(self, one: _Waiting) -> None:
        self._waiting.pop(one.lease, None)
        self._notes.drop(one.lease)
