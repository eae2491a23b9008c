"""Handlers that run in processes of their own: CPU-bound ones, and those that must be killed."""

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any, Final

from finmind_client.worker.attempt import Attempt, Ended
from finmind_client.worker.claimed import OVER, Stop
from finmind_client.worker.outcomes import Outcome
from finmind_client.worker.threads import HandlerThreads

_MAIN: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from finmind_client.worker.child import main; main()"
)
_SIGNALS: Final[dict[Stop, signal.Signals]] = (
    {"cancel": signal.SIGUSR1, "shutdown": signal.SIGTERM} if os.name == "posix" else {}
)
"""What a process is sent to stop of itself."""


class HandlerProcesses:
    """Processes that are kept for the next job; each has its own session, and is killed with all in it."""

    def __init__(self, threads: HandlerThreads, *, max_result_bytes: int) -> None:
        self._threads = threads
        self._max_result_bytes = max_result_bytes
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()
        self._closed = False

    def begin(self, attempt: Attempt, ended: Ended) -> None:
        """Run a handler in a process; a thread reads what it says."""
        self._threads.call(lambda: ended(self._outcome(attempt)))

    def close(self) -> None:
        """Kill all of them."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = self._all.difference(idle)
        for child in busy:  # their threads do the rest
            child.kill()
        for child in idle:
            child.obituary()

    def _outcome(self, attempt: Attempt) -> Outcome:
        try:
            child = self._take()
        except OSError as error:
            return Outcome.failed("ProcessNotStarted", str(error), by_error=True)
        outcome = child.run(attempt, max_result_bytes=self._max_result_bytes)
        if outcome is not None:
            with self._lock:
                if not self._closed:
                    self._idle.append(child)
            return outcome
        with self._lock:
            self._all.discard(child)
        return Outcome.failed("ProcessDied", child.obituary(), by_error=True)

    def _take(self) -> "_Child":
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.process.poll() is None:
                    return child
                self._all.discard(child)
        child = _Child()
        with self._lock:
            self._all.add(child)
            closed = self._closed
        if closed:
            child.kill()
        return child


class _Child:
    """One process; it runs one job at a time."""

    def __init__(self) -> None:
        self.process: Final = subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, "-c", _MAIN, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._lock = threading.Lock()
        self._attempt: Attempt | None = None
        self._ready = False
        self._killed = False

    def run(self, attempt: Attempt, *, max_result_bytes: int) -> Outcome | None:
        """Run a job to its end; None: the process died of it, or is to be killed."""
        with self._lock:
            self._attempt = attempt
        attempt.on_stop = lambda reason: self._stop(attempt, reason)
        if attempt.context.cancelled:  # from before there was anybody to be told
            return None
        try:
            self._write(_order(attempt, max_result_bytes))
            return self._read(attempt)
        except (OSError, ValueError):  # its end of the pipe is closed, or it wrote half a line
            return None
        finally:
            with self._lock:
                self._attempt = None

    def kill(self) -> None:
        """Kill it and what it has started."""
        with self._lock:
            self._kill()

    def obituary(self) -> str:
        """How it ended; waits for that."""
        self.kill()
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # what was not written yet
                pass
        if self._killed:
            return "the process of the handler was killed, since it was to stop"
        if code < 0:
            return f"the process of the handler was killed by {signal.Signals(-code).name}"
        return f"the process of the handler ended with exit code {code} before the handler did"

    def _stop(self, attempt: Attempt, reason: Stop) -> None:
        with self._lock:
            if self._attempt is not attempt:
                return
            if reason in OVER or not self._ready:
                self._killed = True
                self._kill()
            elif self.process.poll() is None:
                os.kill(self.process.pid, _SIGNALS[reason])

    def _kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def _write(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def _read(self, attempt: Attempt) -> Outcome | None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            match json.loads(line):
                case {"ready": _}:
                    with self._lock:
                        self._ready = True
                case {"progress": [fraction, message]}:
                    attempt.sink.progress(fraction, message)
                case {"log": told}:
                    attempt.sink.log(told)
                case {"ended": outcome}:
                    return Outcome.read(outcome)
        return None


def _order(attempt: Attempt, max_result_bytes: int) -> dict[str, Any]:
    handler = attempt.handler
    assert handler.path is not None
    return {
        "module": handler.path.module,
        "name": handler.path.name,
        "is_file": handler.path.is_file,
        "takes_context": handler.takes_context,
        "is_async": handler.is_async,
        "max_result_bytes": max_result_bytes,
        "job": attempt.claimed.document(),
    }
