"""Runs the process until a signal ends it.

The first SIGTERM, SIGINT or SIGHUP stops claiming at once and drains. A second one ends the process
without waiting; its claimed jobs run again when their leases end. Nothing else ends the process, not
even a `sys.exit` in a handler's task.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

import uvloop

from service.observability.logging import get_logger
from service.signals import ending

FORCED_EXIT_CODE: Final = 130
"""What shells report for a process that Ctrl-C ended."""
FORCE_AGAIN_SECONDS: Final = 0.1
LAST_WORDS_SECONDS: Final = 1.0
"""How long tasks that nothing has stopped may take to end."""

_log = get_logger(__name__)

T = TypeVar("T")


class Signals:
    """The first signal begins to stop; the second ends the main task."""

    def __init__(self) -> None:
        self.forced = False
        self._task: asyncio.Task[Any] | None = None
        self.stopping = asyncio.Event()
        self._begin: Callable[[], object] = self.stopping.set

    def on_first(self, begin_to_stop: Callable[[], object]) -> None:
        """Call `begin_to_stop` at the first signal, or at once if it came already."""
        self._begin = begin_to_stop
        if self.stopping.is_set():
            begin_to_stop()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Take over the signals for the current task."""
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        before = {number: signal.getsignal(number) for number in ending()}
        self.take()
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    def take(self) -> None:
        """Install our signal handlers, whoever had the signals."""
        loop = asyncio.get_running_loop()
        for number in ending():
            loop.add_signal_handler(number, self._received, loop)

    def stop(self) -> None:
        """Begin to stop, as by a first signal; later ones end the process at once."""
        if not self.stopping.is_set():
            self.stopping.set()
            _log.info("stopping", hint="a signal ends it without waiting")
            self._begin()

    def _received(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.stopping.is_set():
            _log.info("stopping", hint="a second signal ends it without waiting")
            self.stopping.set()
            self._begin()
        elif not self.forced:
            self.forced = True
            assert self._task is not None
            self._force(loop, self._task)

    def _force(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        # Again and again: each step of an orderly stop that waits is cut short in its turn.
        if not task.done():
            task.cancel()
            loop.call_later(FORCE_AGAIN_SECONDS, self._force, loop, task)


def run_until_signal(main: Callable[[Signals], Coroutine[Any, Any, None]]) -> int:
    """Run `main` on uvloop with the signals watched; the exit code."""
    signals = Signals()

    async def run() -> None:
        with signals.watched():
            await main(signals)

    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        _complete(runner.get_loop(), run())
    except asyncio.CancelledError:
        if not signals.forced:
            raise
    finally:
        # A runner that is closed waits for every task, and for ever for one that cannot be cancelled.
        if _complete(runner.get_loop(), _end_others()):
            runner.close()
    return FORCED_EXIT_CODE if signals.forced else 0


def _complete(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end, although tasks of handlers exit, or stop the loop."""
    task = loop.create_task(main)
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt, RuntimeError) as error:
            if task.done() or loop.is_closed():
                raise
            # The exit has ended the task: a handler that awaits it fails, and its job has the reason.
            _log.error("exit_prevented", error=type(error).__name__, exc_info=error)


async def _end_others() -> bool:
    """Cancel what still runs; False if a task does not end within a second."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=LAST_WORDS_SECONDS)
    deaf = sorted(task.get_name() for task in others if not task.done())
    if deaf:
        _log.error("tasks_left_behind", tasks=deaf[:10], count=len(deaf))
    return not deaf
