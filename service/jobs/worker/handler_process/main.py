"""The program of a process of handlers: `run()`, which `process.py` starts in a fresh interpreter.

Handlers run in the main thread, one at a time. A second thread reads what the worker sends, so that a
cancel and the worker's end are noticed while a handler computes.
"""

import asyncio
import contextlib
import itertools
import os
import pickle
import signal
import sys
import threading
from collections.abc import Awaitable
from concurrent.futures import Future, InvalidStateError
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, BinaryIO, Final

from service.jobs.core.job import LeaseToken
from service.jobs.handlers.captured import capture
from service.jobs.handlers.context import JobContext
from service.jobs.handlers.payload import load_payload
from service.jobs.handlers.signature import is_async
from service.jobs.worker.handler_process import messages
from service.jobs.worker.handler_process.context import open_context
from service.jobs.worker.handler_process.ending import raised, returned
from service.jobs.worker.handler_process.messages import Load, Run, from_process
from service.jobs.worker.handler_process.parent import (
    die_with,
    leave_signals_to_parent,
    offer_to_die_first,
)
from service.observability.logging import JOB_FIELDS, configure_logging
from service.settings import Settings

MAX_FROM_WORKER: Final = 2**32 - 1


class HandlerProgram:
    """Runs what the worker sends until it closes the pipe."""

    def __init__(self, from_worker: BinaryIO, to_worker: BinaryIO) -> None:
        self._from_worker = from_worker
        self._to_worker = to_worker
        self._writing = threading.Lock()
        self._work: SimpleQueue[Load | Run | None] = SimpleQueue()
        self._asks: dict[int, Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._settings = Settings.model_construct()
        self._busy = False
        """Whether the worker waits for an end."""
        self._cancelled = False
        self._context: JobContext | None = None
        self._task: asyncio.Task[Any] | None = None
        self._runner: asyncio.Runner | None = None
        self.loop = asyncio.new_event_loop()
        """For what plain functions ask: they wait for it in the main thread."""

    def run(self) -> None:
        """Work until the pipe ends."""
        for name, target in (("loop", self.loop.run_forever), ("reader", self._read)):
            threading.Thread(target=target, name=f"finmind-{name}", daemon=True).start()
        self.send(kind="ready", pid=os.getpid())
        while (message := self._work.get()) is not None:
            end = self._load(message) if isinstance(message, Load) else self._attempt(message)
            self._busy = False
            self.send(**end)

    def send(self, **message: Any) -> None:
        """Tell the worker something; from any thread."""
        frame = from_process(**message)
        with self._writing:
            self._to_worker.write(frame)
            self._to_worker.flush()

    async def ask(self, what: str, argument: Any, *, lease: LeaseToken) -> Any:
        """Ask the worker something under a lease, and wait for its answer, in whatever loop."""
        answer: Future[Any] = Future()
        number = next(self._numbers)
        self._asks[number] = answer
        self.send(kind="ask", id=number, lease=lease, what=what, argument=argument)
        return await asyncio.wrap_future(answer)

    # -- the second thread --------------------------------------------------------------------

    def _read(self) -> None:
        frames = messages.Frames(max_bytes=MAX_FROM_WORKER)
        while data := os.read(self._from_worker.fileno(), 65_536):
            for body in frames.take(data):
                self._take(pickle.loads(body))  # noqa: S301 - of its own worker, over a private pipe
        if self._busy:
            # The worker is gone. With all that the handler has started: they share its group.
            os.killpg(0, signal.SIGKILL)
        self._work.put(None)

    def _take(self, message: messages.ToProcess) -> None:
        match message:
            case messages.Start():
                self._settings = Settings.model_construct(**message.settings)
                configure_logging(self._settings)
            case messages.Cancel():
                self._cancel()
            case messages.Answer():
                answer = self._asks.pop(message.ask)
                with contextlib.suppress(InvalidStateError):  # nobody waits for it any more
                    if message.error is not None:
                        answer.set_exception(RuntimeError(message.error))
                    else:
                        answer.set_result(message.value)
            case Load() | Run():
                self._busy, self._cancelled = True, False
                self._work.put(message)

    def _cancel(self) -> None:
        # First the flag: whoever comes to know the context or the task later looks at it.
        self._cancelled = True
        if self._context is not None:
            self._context.cancelled = True
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    # -- the main thread ----------------------------------------------------------------------

    def _load(self, message: Load) -> dict[str, Any]:
        try:
            message.function.find()
            if message.model is not None:
                message.model.find()
        except BaseException as error:
            return raised(error)
        return {"kind": "loaded"}

    def _attempt(self, job: Run) -> dict[str, Any]:
        try:
            value = copy_context().run(self._handle, job)
        except BaseException as error:
            return raised(error)
        finally:
            self._context = None
        return returned(value, max_bytes=self._settings.max_payload_bytes)

    def _handle(self, job: Run) -> Any:
        JOB_FIELDS.set(job)
        model = job.model.find() if job.model is not None else None
        payload, function = load_payload(job.payload, model), job.function.find()
        if is_async(function):
            return self._complete(self._call(job, function, payload))
        opening = open_context(job, self, self._settings)
        context = asyncio.run_coroutine_threadsafe(opening, self.loop).result()
        value = function(*self._arguments(job, payload, context))
        # Of a plain decorator around a coroutine function.
        return self._complete(value) if hasattr(value, "__await__") else value

    async def _call(self, job: Run, function: Any, payload: Any) -> Any:
        context = await open_context(job, self, self._settings)
        return await function(*self._arguments(job, payload, context))

    def _arguments(self, job: Run, payload: Any, context: JobContext) -> tuple[Any, ...]:
        self._context = context
        context.cancelled = self._cancelled
        if job.captures_logging:
            capture(context.keep_line)
        return (payload, context) if job.takes_context else (payload,)

    def _complete(self, value: Awaitable[Any]) -> Any:
        if self._runner is None:
            self._runner = asyncio.Runner()
        result, error = self._runner.run(self._awaited(value), context=copy_context())
        if error is not None:
            raise error
        return result

    async def _awaited(self, value: Awaitable[Any]) -> tuple[Any, BaseException | None]:
        self._task = asyncio.current_task()
        if self._cancelled and self._task is not None:
            self._task.cancel()
        try:
            return await value, None
        except BaseException as error:
            return (
                None,
                error,
            )  # raised outside of the loop, whose frames say nothing of the failure
        finally:
            self._task = None


def run() -> None:
    """Run handlers for the worker that started this process; its id is the last argument."""
    die_with(int(sys.argv[-1]))
    offer_to_die_first()
    leave_signals_to_parent()
    # What handlers print goes to the log's stream, and what they read is empty: the pipes are ours.
    from_worker, to_worker = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    HandlerProgram(from_worker, to_worker).run()
