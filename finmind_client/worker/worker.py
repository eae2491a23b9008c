"""A worker over HTTP: register handlers, then run."""

import asyncio
import os
import re
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

import httpx

from finmind_client.models import Backoff
from finmind_client.worker import child
from finmind_client.worker.engine import Engine, Options
from finmind_client.worker.handlers import MAX_TYPES, Executor, Handler, HandlerT, handler_of

MAX_CONCURRENCY: Final = 1_000


class Worker:
    """Claims jobs from one service, runs their handlers, and reports what became of them.

        worker = Worker("https://jobs.example.com", token=key, concurrency=20)

        @worker.handler("send_invoice")
        def send_invoice(payload, ctx):
            return {"sent": payload["invoice"]}

        if __name__ == "__main__":
            worker.run()

    The engine has a thread of its own: no handler keeps it from sending heartbeats.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        concurrency: int = 10,
        queues: Sequence[str] | None = None,
        name: str | None = None,
        version: str | None = None,
        grace_seconds: float = 20.0,
        timeout_seconds: float = 10.0,
        max_result_bytes: int = 262_144,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Nothing is connected yet.

        Args:
            url: where the service is, with its root path.
            token: an API key with the scope `jobs:work`, or a bearer token.
            concurrency: how many jobs run at once, of all types together.
            queues: whose jobs it claims; without, all that its key may use.
            name: what operators see it as, the same for as long as it runs, unlike any other; by default of
                the host, the process and four letters.
            version: the application's own, for operators to see.
            grace_seconds: how long jobs may take to end once the worker is told to stop. After that they are
                told to stop as well, and given back; all in all that takes up to 8 s more.
            timeout_seconds: for each step of a request, beside the time that a claim waits.
            max_result_bytes: limit on a result as JSON; the service has one as well, `MAX_PAYLOAD_BYTES`.
            transport: of httpx, in place of the network; for tests.

        Raises:
            ValueError: concurrency or name cannot be.
        """
        if not 1 <= concurrency <= MAX_CONCURRENCY:
            raise ValueError(f"concurrency is {concurrency}: give 1 to {MAX_CONCURRENCY}")
        self.name: Final = name or _new_name()
        if not re.fullmatch(r"[\x21-\x7e]{1,200}", self.name):
            raise ValueError(
                f"name is {self.name!r}: give 1 to 200 visible ASCII characters, without spaces"
            )
        self._handlers: dict[str, Handler] = {}
        self._url, self._token, self._queues = url, token, queues
        self._concurrency, self._version = concurrency, version
        self._grace_seconds, self._timeout_seconds = grace_seconds, timeout_seconds
        self._max_result_bytes, self._transport = max_result_bytes, transport
        self._engine: Engine | None = None
        self._thread: threading.Thread | None = None
        self._stop_asked = False
        self._error: BaseException | None = None

    def handler(
        self,
        job_type: str,
        *,
        executor: Executor | None = None,
        timeout_seconds: float | None = None,
        max_retries: int | None = None,
        backoff: Backoff | None = None,
    ) -> Callable[[HandlerT], HandlerT]:
        """Register the function below as the handler of a job type.

        It is called with the payload, or with the payload and a `JobContext`. What it returns is the job's
        result; what it raises fails the attempt. A plain function runs in a thread, an `async def` on an
        event loop that all of them share.

        Args:
            job_type: as jobs are enqueued with it.
            executor: `process` runs it in a process of its own, which is killed when the time is over or the
                lease is lost; the function must be at the top of a module that can be imported.
            timeout_seconds: limit on one attempt of jobs that have none of their own.
            max_retries: retries after the first attempt, of the same jobs.
            backoff: delays between their attempts.

        Raises:
            ValueError: the type has a handler, there are too many, or the function cannot be one.
            RuntimeError: the worker runs already.
        """
        if self._thread is not None:
            raise RuntimeError(
                f"The worker runs already: register {job_type!r} before run() or start()"
            )
        if job_type in self._handlers:
            raise ValueError(
                f"job_type {job_type!r} has a handler already: "
                f"{self._handlers[job_type].function.__qualname__}"
            )
        if len(self._handlers) >= MAX_TYPES:
            raise ValueError(
                f"There are {MAX_TYPES} handlers: register further ones with another Worker"
            )

        def register(function: HandlerT) -> HandlerT:
            self._handlers[job_type] = handler_of(
                job_type,
                function,
                executor=executor,
                timeout_seconds=timeout_seconds,
                max_retries=max_retries,
                backoff=backoff,
            )
            return function

        return register

    def run(self) -> None:
        """Work until SIGTERM, SIGINT, a drain, or `stop()`; a second signal gives jobs back at once.

        In the main thread signals are taken; in others call `stop()`.

        Raises:
            ApiError: the service refuses this worker: its credential, its types or queues.
            RuntimeError: it has run before, or has no handlers.
        """
        with self._signals():
            self.start()
            self.wait()

    def start(self) -> None:
        """Begin to work, in threads of its own; returns at once.

        Raises:
            RuntimeError: it has run before, or has no handlers.
        """
        if child.is_child:
            raise RuntimeError(
                "A process of a handler would start a worker of its own: call run() below "
                "`if __name__ == '__main__':`"
            )
        if self._thread is not None:
            raise RuntimeError("A Worker runs once: make another one")
        if not self._handlers:
            raise RuntimeError("The worker has no handlers: register one with @worker.handler(...)")
        options = Options(
            url=self._url,
            token=self._token,
            name=self.name,
            handlers=dict(self._handlers),
            queues=self._queues,
            concurrency=self._concurrency,
            version=self._version,
            grace_seconds=self._grace_seconds,
            timeout_seconds=self._timeout_seconds,
            max_result_bytes=self._max_result_bytes,
            transport=self._transport,
        )
        self._thread = threading.Thread(
            target=self._work, args=[options], name="finmind-worker", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop in good order, and return at once; called again, without a grace. From any thread."""
        self._stop_asked = True
        if self._engine is not None:
            with suppress(RuntimeError):  # it has stopped
                self._engine.stop()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until it has stopped; whether it has.

        Raises:
            ApiError: the service refused it.
        """
        if self._thread is None:
            return False
        self._thread.join(timeout_seconds)
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def _work(self, options: Options) -> None:
        try:
            asyncio.run(self._run(options))
        except BaseException as error:  # for the thread that waits
            self._error = error

    async def _run(self, options: Options) -> None:
        self._engine = Engine(options)
        if self._stop_asked:
            self._engine.stop()
        await self._engine.run()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def told(_: int, __: FrameType | None) -> None:
            self.stop()

        before = {one: signal.signal(one, told) for one in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _new_name() -> str:
    host = re.sub(r"[^\x21-\x7e]", "-", socket.gethostname())[:150] or "worker"
    return f"{host}:{os.getpid()}:{secrets.token_hex(2)}"
