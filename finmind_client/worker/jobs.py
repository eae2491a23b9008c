"""The jobs that a worker has: begun, kept, stopped, and reported at their end."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from finmind_client.worker import clock
from finmind_client.worker.attempt import Attempt, Runner
from finmind_client.worker.calls import Beat
from finmind_client.worker.claimed import OVER, Claimed, Lease, Stop
from finmind_client.worker.connection import log
from finmind_client.worker.handlers import Handler
from finmind_client.worker.notes import Notes
from finmind_client.worker.outcomes import Outcome
from finmind_client.worker.reports import Reports

TIMEOUT_REPORT_SECONDS: Final = 1.0
"""How long after the end of an attempt's time it is reported: by then the service has ended it, as a rule."""


class Jobs:
    """All in the thread of the engine, but for the ends of handlers, which come from theirs."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        runner_of: Mapping[str, Runner],
        *,
        reports: Reports,
        notes: Notes,
        concurrency: int,
    ) -> None:
        self._handlers = handlers
        self._runner_of = runner_of
        self._reports = reports
        self._notes = notes
        self._concurrency = concurrency
        self._loop = asyncio.get_running_loop()
        self._running: dict[Lease, Attempt] = {}
        """Whose handlers have not ended, whoever has their jobs."""
        self.changed = asyncio.Event()
        """Set when a handler has ended."""

    @property
    def running(self) -> int:
        """How many handlers run."""
        return len(self._running)

    @property
    def room(self) -> int:
        """How many more jobs there is room for: for handlers, and for ends that are not reported yet."""
        unreported = len(self._reports.leases)
        return min(
            self._concurrency - self.running, 2 * self._concurrency - self.running - unreported
        )

    @property
    def abandoned(self) -> int:
        """How many handlers run on whose jobs are over: they were told to stop."""
        return sum(attempt.settled for attempt in self._running.values())

    @property
    def leases(self) -> Sequence[Lease]:
        """The jobs that are to be kept."""
        kept = [lease for lease, attempt in self._running.items() if not attempt.settled]
        return [*kept, *self._reports.leases]

    def begin(self, claimed: Claimed, *, asked_at: float) -> None:
        """Run a job that a claim has brought."""
        handler = self._handlers.get(claimed.job_type)
        if handler is None:  # the service knows better what was asked for than we do
            self._reports.add(claimed.lease, Outcome.released())
            return
        sink = self._notes.sink(claimed.lease)
        attempt = Attempt(claimed, handler, sink=sink, asked_at=asked_at)
        self._running[claimed.lease] = attempt
        self._arm(attempt)

        def ended(outcome: Outcome) -> None:
            try:
                self._loop.call_soon_threadsafe(self._ended, attempt, outcome)
            except RuntimeError:  # the worker has stopped without it
                log.warning("Job %d has ended after its worker", claimed.lease.id)

        try:
            self._runner_of[claimed.job_type].begin(attempt, ended)
        except RuntimeError as error:  # no thread is to be had
            log.error("Job %d cannot be run here, and is given back: %s", claimed.lease.id, error)
            self._ended(attempt, Outcome.released())

    def give_back(self, claimed: Claimed) -> None:
        """A claim brought a job when there was no use for it any more."""
        self._reports.add(claimed.lease, Outcome.released())

    def beat(self, beats: Sequence[Beat], *, sent_at: float) -> None:
        """Take in what a heartbeat found."""
        for beat in beats:
            attempt = self._running.get(beat.lease)
            if attempt is None or attempt.settled:
                continue
            match beat.state:
                case "lease_lost" | "timed_out" | "cancelled" as state:
                    self._lost(attempt, state)
                    continue
                case "cancel":
                    attempt.stop("cancel")
            attempt.lease_until = sent_at + beat.lease_seconds
            if beat.timeout_in_seconds is not None:
                attempt.timeout_at = clock.now() + beat.timeout_in_seconds
            self._arm(attempt)

    def stop_all(self, reason: Stop) -> None:
        """Have all handlers stop."""
        for attempt in self._running.values():
            attempt.stop(reason)

    def give_all_back(self) -> None:
        """Release the jobs whose handlers have not ended; what can be killed is."""
        for attempt in self._running.values():
            if not attempt.settled:
                log.warning("Job %d has not ended in time, and is given back", attempt.lease.id)
                self._settle(attempt, Outcome.released())
            attempt.stop("lease_lost")

    def _ended(self, attempt: Attempt, outcome: Outcome) -> None:
        del self._running[attempt.lease]
        self.changed.set()
        if attempt.settled:
            return
        if outcome.by_error and attempt.context.stop_reason == "shutdown":
            outcome = Outcome.released()
        self._settle(attempt, outcome)

    def _settle(self, attempt: Attempt, outcome: Outcome) -> None:
        self._disarm(attempt)
        attempt.settled = True
        self._reports.add(attempt.lease, outcome)

    def _lost(self, attempt: Attempt, reason: Stop) -> None:
        assert reason in OVER
        log.warning("Job %d is not this worker's any more: %s", attempt.lease.id, reason)
        self._disarm(attempt)
        attempt.settled = True
        self._notes.drop(attempt.lease)
        attempt.stop(reason)

    def _arm(self, attempt: Attempt) -> None:
        self._disarm(attempt)
        seconds = min(attempt.lease_until, attempt.timeout_at) - clock.now()
        attempt.timer = self._loop.call_later(max(0.0, seconds), self._look, attempt)

    def _disarm(self, attempt: Attempt) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()
            attempt.timer = None

    def _look(self, attempt: Attempt) -> None:
        """One of its deadlines may be over."""
        if attempt.settled:
            return
        now = clock.now()
        if now >= attempt.timeout_at and attempt.context.stop_reason == "cancel":
            # What it was given to stop is over: the service records that it ignored the cancel.
            self._lost(attempt, "cancelled")
        elif now >= attempt.timeout_at:
            self._timed_out(attempt)
        elif now >= attempt.lease_until:
            self._lost(attempt, "lease_lost")
        else:
            self._arm(attempt)

    def _timed_out(self, attempt: Attempt) -> None:
        """Stop it at once; the service records its end, and is told only in case that it could not."""
        seconds = attempt.claimed.timeout_seconds
        self._lost(attempt, "timed_out")
        outcome = Outcome.failed(
            "HandlerTimeout", f"the handler took longer than its timeout of {seconds:g} s"
        )
        self._loop.call_later(TIMEOUT_REPORT_SECONDS, self._reports.add, attempt.lease, outcome)
