"""Handlers that are coroutines, on an event loop of their own."""

import asyncio
import threading
import time
from typing import Final

from finmind_client.worker.attempt import Attempt, Ended
from finmind_client.worker.claimed import Stop
from finmind_client.worker.connection import log
from finmind_client.worker.outcomes import Outcome


class HandlerLoop:
    """A thread with an event loop; one handler that blocks it delays the others, but no heartbeat."""

    def __init__(self, *, max_result_bytes: int) -> None:
        self._max_result_bytes = max_result_bytes
        self._loop: Final = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._running: dict[asyncio.Task[Outcome], int] = {}
        self._asked_at: float | None = None
        """Since when the loop has not answered whether it turns."""
        self._blocked = False
        self._closing = False

    def begin(self, attempt: Attempt, ended: Ended) -> None:
        """Run a handler on the loop."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="finmind-loop", daemon=True)
            self._thread.start()
        self._loop.call_soon_threadsafe(self._begin, attempt, ended)

    def close(self) -> None:
        """End the loop; handlers that are left on it are abandoned."""
        self._closing = True
        if self._thread is None:
            self._loop.close()
        else:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def look(self, seconds: float) -> None:
        """Log once where the loop has not turned for so long; called now and then, from one thread."""
        if self._thread is None:
            return
        asked_at = self._asked_at
        if asked_at is None:
            self._blocked = False
            self._asked_at = time.monotonic()
            self._loop.call_soon_threadsafe(self._turned)
            return
        blocked = time.monotonic() - asked_at
        if blocked >= seconds / 2 and not self._blocked:
            self._blocked = True
            log.warning(
                "The event loop of the handlers is blocked for %.0f s; on it are jobs %s. Use await, or make the "
                "handler a plain function: it runs in a thread",
                blocked,
                ", ".join(str(one) for one in list(self._running.values())[:10]),
            )

    def _turned(self) -> None:
        self._asked_at = None

    def _begin(self, attempt: Attempt, ended: Ended) -> None:
        task = self._loop.create_task(self._outcome(attempt), name=f"job.{attempt.lease.id}")
        self._running[task] = attempt.lease.id

        def stop(_: Stop) -> None:
            self._loop.call_soon_threadsafe(cancel)

        def cancel() -> None:
            if not task.done() and not task.cancelling():
                task.cancel()

        def over(_: asyncio.Task[Outcome]) -> None:
            del self._running[task]
            ended(Outcome.of_error(asyncio.CancelledError()) if task.cancelled() else task.result())

        task.add_done_callback(over)
        attempt.on_stop = stop
        if attempt.context.cancelled:  # before there was anybody to be told
            cancel()

    async def _outcome(self, attempt: Attempt) -> Outcome:
        handler = attempt.handler
        try:
            result = await handler.function(
                *handler.arguments(attempt.claimed.payload, attempt.context)
            )
        except BaseException as error:  # SystemExit ends the attempt, not the loop
            return Outcome.of_error(error)
        return Outcome.of_result(result, max_bytes=self._max_result_bytes)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._closing:
            try:
                self._loop.run_forever()
            except BaseException as error:  # SystemExit of a task that a handler made
                log.error("A task of a handler ended with %s", type(error).__name__)
        if not self._running:
            self._loop.close()
