"""Keeps the worker's jobs its own: one call for all of them, each third of a lease."""

import asyncio
from collections.abc import Callable

from finmind_client.errors import FinMindError
from finmind_client.worker import calls, clock
from finmind_client.worker.connection import Connection, asked_pause, is_refusal, log
from finmind_client.worker.jobs import Jobs


class Heartbeat:
    """Sends heartbeats, and has jobs stop that are to."""

    def __init__(
        self,
        connection: Connection,
        jobs: Jobs,
        *,
        seconds: float,
        on_drain: Callable[[], None],
        on_beat: Callable[[float], None],
    ) -> None:
        self._connection = connection
        self._jobs = jobs
        self._seconds = seconds
        self._on_drain = on_drain
        self._on_beat = on_beat
        self._stuck = False
        self.beating = asyncio.Lock()
        """Held while a heartbeat is on its way."""

    async def run(self) -> None:
        """Beat until cancelled; sooner again where the service did not answer."""
        pauses = clock.Pauses(0.5, self._seconds)
        pause = self._seconds
        while True:
            await asyncio.sleep(pause)
            self._on_beat(self._seconds)
            self._look_for_stuck()
            try:
                async with self.beating:
                    await self._beat()
            except FinMindError as error:
                if is_refusal(error):
                    log.error("A heartbeat was refused: %s", error)
                pause = min(pauses.after_failure(asked_pause(error)), self._seconds)
            else:
                pauses.begin_anew()
                pause = self._seconds

    def _look_for_stuck(self) -> None:
        """Log once that nothing is claimed since handlers do not stop."""
        stuck = self._jobs.room <= 0 and self._jobs.abandoned == self._jobs.running > 0
        if stuck and not self._stuck:
            log.error(
                "All %d slots are held by handlers that were told to stop and go on: no jobs are claimed. Let them "
                "look at ctx.cancelled, or run them in processes",
                self._jobs.running,
            )
        self._stuck = stuck

    async def _beat(self) -> None:
        leases = list(self._jobs.leases)
        for first in range(0, max(1, len(leases)), calls.MAX_LEASES):
            sent_at = clock.now()
            batch = leases[first : first + calls.MAX_LEASES]
            found = await self._connection.send(calls.heartbeat(self._connection.worker, batch))
            self._jobs.beat(found.jobs, sent_at=sent_at)
            if found.drain:
                self._on_drain()
