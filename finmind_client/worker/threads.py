"""Handlers that are plain functions, in threads."""

import threading
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from typing import Final

from finmind_client.worker.attempt import Attempt, Ended
from finmind_client.worker.outcomes import Outcome


class HandlerThreads:
    """Threads that are kept for the next job, and that a process which ends does not wait for.

    A thread cannot be stopped: one that ignores `ctx.cancelled` keeps its slot until it returns.
    """

    def __init__(self, *, max_result_bytes: int) -> None:
        self._max_result_bytes = max_result_bytes
        self._work: Final[SimpleQueue[Callable[[], None] | None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._free = 0
        """Threads that wait, less the work that is queued for them."""
        self._threads = 0

    def begin(self, attempt: Attempt, ended: Ended) -> None:
        """Run a handler in a thread."""
        self.call(lambda: ended(self._outcome(attempt)))

    def call(self, work: Callable[[], None]) -> None:
        """Run something that does not raise in a thread.

        Raises:
            RuntimeError: the system gives no more threads.
        """
        with self._lock:
            self._free -= 1
            if self._free < 0:
                self._free += 1
                name = f"finmind-handler-{self._threads + 1}"
                threading.Thread(target=self._loop, name=name, daemon=True).start()
                self._threads += 1
        self._work.put(work)

    def close(self) -> None:
        """End the threads that are, or become, idle."""
        for _ in range(self._threads):
            self._work.put(None)

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            Context().run(work)
            del work  # and the job with it
            with self._lock:
                self._free += 1

    def _outcome(self, attempt: Attempt) -> Outcome:
        handler = attempt.handler
        try:
            result = handler.function(*handler.arguments(attempt.claimed.payload, attempt.context))
        except BaseException as error:  # SystemExit ends the attempt, not the worker
            return Outcome.of_error(error)
        return Outcome.of_result(result, max_bytes=self._max_result_bytes)
