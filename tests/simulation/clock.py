"""Virtual time: an event loop whose clock jumps to the next timer, and the processes that run on it.

Everything runs in one thread and in one order, which only the seed determines. A process is a context:
everything started in it carries its name, so that its callbacks can be held back during a stall, and
dropped when it has been killed.
"""

import asyncio
import contextvars
import heapq
import random
import sys
from asyncio.events import Handle
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import ContextVar
from datetime import UTC, datetime, tzinfo
from typing import Any, Final, TypeVar, TypeVarTuple

import pytest

from service.jobs.worker.run import Run

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH: Final = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
"""The time of the server's clock when a simulation starts."""

MOST_STEPS_AT_ONCE: Final = 20_000
MOST_STEPS: Final = 1_000_000


class Spinning(BaseException):
    """Callbacks follow each other endlessly while no time passes, or for far too long."""


class Process:
    """One process of the service: it runs, is frozen (stopped, swapped, blocked) or is dead."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)
        self.wall_offset = 0.0
        """How far its wall clock is from the truth."""
        self.frozen = False
        self.dead = False
        self._held: deque[Handle] = deque()
        self._remains: set[asyncio.Task[Any]] = set()

    def hold(self, handle: Handle) -> None:
        """Keep a callback until the process goes on; of a dead one it is dropped."""
        if not self.dead:
            self._held.append(handle)

    def freeze(self) -> None:
        """Freeze."""
        self.frozen = True

    def thaw(self, loop: "VirtualLoop") -> None:
        """Go on: what was held is run in the order in which it became due."""
        if self.dead:
            return
        self.frozen = False
        loop.resume(self._held)
        self._held = deque()

    def kill(self, loop: "VirtualLoop") -> None:
        """Run nothing from now on."""
        self.frozen = self.dead = True
        self._held.clear()
        # Nobody else holds on to its tasks, and one that is collected complains.
        self._remains = asyncio.all_tasks(loop)

    def start(self, loop: "VirtualLoop", coroutine: Any, name: str) -> "asyncio.Task[Any]":
        """A task in this process."""
        return asyncio.Task(coroutine, loop=loop, name=name, context=self.context)

    def call(self, loop: "VirtualLoop", function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call something in this process, once it is not frozen."""
        loop.call_soon(function, *args, context=self.context)


PROCESS: ContextVar[Process | None] = ContextVar("simulated_process", default=None)


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks as asyncio does, but waits for nothing: time jumps to the next timer.

    With `early` timers go off up to a millisecond before their time, as uvloop's do.
    """

    def __init__(self, *, early: random.Random | None = None) -> None:
        super().__init__()
        self._now = 1000.0
        self._early = early
        self._due: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._soon: deque[Handle] = deque()
        self._timers = 0
        self.steps = 0
        self._steps_now = 0
        self.broken: BaseException | None = None
        """Raised out of the loop as soon as it is set."""
        self.thread_seconds = 0.0
        """Set by a plain function that runs in a thread: how long it takes there."""

    def time(self) -> float:
        return self._now

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Handle:
        handle = Handle(callback, args, self, context)
        self._soon.append(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        if self._early is not None and when - self._now > 0.002:
            # The others wait to the end: here nothing but a timer makes time pass.
            when -= self._early.random() * 0.001
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers += 1
        heapq.heappush(self._due, (when, self._timers, handle))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def resume(self, handles: deque[Handle]) -> None:
        """Run what was held back."""
        self._soon.extend(handles)

    def _run_once(self) -> None:
        if self.broken is not None:
            raise self.broken
        due, soon = self._due, self._soon
        if not soon:
            while due and due[0][2].cancelled():
                heapq.heappop(due)
            if not due:
                raise Spinning("nothing will ever happen again")
            if due[0][0] > self._now:
                self._now = due[0][0]
                self._steps_now = 0
        while due and due[0][0] <= self._now:
            soon.append(heapq.heappop(due)[2])
        self._count(len(soon))
        for _ in range(len(soon)):
            handle = soon.popleft()
            if handle.cancelled():
                continue
            process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
            if process is not None and process.frozen:
                process.hold(handle)
            else:
                handle._run()

    def _count(self, steps: int) -> None:
        self.steps += steps
        self._steps_now += steps
        if self._steps_now > MOST_STEPS_AT_ONCE or self.steps > MOST_STEPS:
            raise Spinning(
                f"{self._steps_now} steps at {self._now:.3f}, {self.steps} in all: "
                f"{[*self._soon][:5]}"
            )

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> "asyncio.Future[T]":
        """The function runs at once; what came of it is known when its thread would have ended."""
        if getattr(executor, "_shutdown", False):
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: asyncio.Future[T] = self.create_future()
        self.thread_seconds = 0.0
        try:
            value = func(*args)
        except Exception as error:
            self.call_later(self.thread_seconds, _fail, future, error)
        else:
            self.call_later(self.thread_seconds, _succeed, future, value)
        return future

    def abandon(self) -> None:
        """Close what dead processes left behind, and the loop."""
        closed: set[asyncio.Task[Any]] = set()
        # Closing one may make another, on this loop: a `finally` that shields a last wish.
        asyncio._set_running_loop(self)
        try:
            while left := asyncio.all_tasks(self) - closed:
                closed |= left
                for task in sorted(left, key=asyncio.Task.get_name):
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    _close(task.get_coro())
        finally:
            asyncio._set_running_loop(None)
        self._soon.clear()
        self._due.clear()
        self.close()


def _close(coroutine: Any) -> None:
    for _ in range(5):
        try:
            coroutine.close()
        except RuntimeError:
            continue  # it awaited once more in a `finally`
        return


def _succeed(future: "asyncio.Future[T]", value: T) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


class Clock:
    """Takes the place of `time` in modules of the engine."""

    def __init__(self) -> None:
        self.loop: VirtualLoop | None = None

    def monotonic(self) -> float:
        assert self.loop is not None
        return self.loop.time()

    CLOCK_BOOTTIME = CLOCK_MONOTONIC = 1

    def clock_gettime(self, _: int) -> float:
        return self.monotonic()

    def time(self) -> float:
        assert self.loop is not None
        process = PROCESS.get()
        return EPOCH + self.loop.time() + (process.wall_offset if process else 0.0)


def install(patch: pytest.MonkeyPatch) -> Clock:
    """Make the engine read the virtual clock, and iterate over its sets in one order only."""
    clock = Clock()

    class Datetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(clock.time(), tz)

    for name, module in list(sys.modules.items()):
        if name.startswith("service.jobs.") and hasattr(module, "time"):
            patch.setattr(module, "time", clock)
    patch.setattr("service.jobs.core.failures.datetime", Datetime)
    # By default an object's hash is its address, which no seed decides.
    patch.setattr(Run, "__hash__", lambda run: hash(run.job.lease), raising=False)
    return clock
