"""A long-running process, with or without API and worker, from start to last drop.

The first SIGTERM, SIGINT or SIGHUP stops claiming at once and drains; a second one ends the process
without waiting, and what it had claimed runs again when the leases end. Nothing else ends it: not a
`sys.exit` in a task of a handler.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

import uvicorn
import uvloop
from fastapi import FastAPI

from service.app import Service
from service.connection import bounded_protocol
from service.errors import ConfigurationError
from service.heap import tune_garbage_collection
from service.observability.logging import get_logger
from service.signals import ending

FORCED_EXIT_CODE: Final = 130
"""As shells have it for a process that Ctrl-C ended."""
FORCE_AGAIN_SECONDS: Final = 0.1
LAST_WORDS_SECONDS: Final = 1.0
"""How long tasks may take to end that nothing stopped before."""

_log = get_logger(__name__)

T = TypeVar("T")


def bind(host: str, port: int, *, setting: str) -> socket.socket:
    """The socket to serve on, bound but not listening: callers are refused until we are ready.

    `setting` names where the port comes from.

    Raises:
        ConfigurationError: the address is taken, or is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {host}:{port}: {error.strerror}. "
            f"Set HOST or {setting} to another ({setting}=0 takes a free one)."
        ) from error
    return bound


def run_app(app: FastAPI, *, listener: socket.socket, on_ready: Callable[[], None]) -> int:
    """Serve `app` on `listener` until a signal; the exit code, 0 after a drain.

    The signal begins the grace of requests and of jobs alike: neither waits for the other.
    """
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        http=bounded_protocol(
            head_seconds=service.settings.header_timeout_seconds,
            head_bytes=service.settings.max_header_bytes,
            read_seconds=service.settings.answer_timeout_seconds,
        ),
        timeout_keep_alive=service.settings.keep_alive_seconds,  # type: ignore[arg-type]  # it takes fractions
        ws="none",
        lifespan="off",
        access_log=False,
        # uvicorn would believe whoever connects from loopback, and read the variable by itself.
        proxy_headers=bool(service.settings.forwarded_allow_ips),
        forwarded_allow_ips=list(service.settings.forwarded_allow_ips),
        log_config=None,
        log_level="warning",  # the service says itself that it starts and stops
        server_header=False,
        # Whole seconds, and none is no limit to uvicorn's mind.
        timeout_graceful_shutdown=max(1, int(service.settings.shutdown_grace_seconds)),
    )
    server = _Server(config, on_ready=on_ready)

    def begin_to_stop() -> None:
        service.stop_claiming()
        server.should_exit = True

    async def run(signals: _Signals) -> None:
        signals.on_first(begin_to_stop)
        # Not left to uvicorn, which would turn an error of the start into a logged traceback.
        async with app.router.lifespan_context(app):
            signals.take()  # a handler module may have
            tune_garbage_collection()
            if not server.should_exit:
                await server.serve(sockets=[listener])

    return _run(run)


class _Signals:
    """The first signal begins to stop; the second ends the main task."""

    def __init__(self) -> None:
        self.forced = False
        self._task: asyncio.Task[Any] | None = None
        self.stopping = asyncio.Event()
        self._begin: Callable[[], object] = self.stopping.set

    def on_first(self, begin_to_stop: Callable[[], object]) -> None:
        """Have `begin_to_stop` called at the first signal; at once if it came already."""
        self._begin = begin_to_stop
        if self.stopping.is_set():
            begin_to_stop()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Take the signals over, for the current task."""
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
        """Make the signals ours, whoever had them."""
        loop = asyncio.get_running_loop()
        for number in ending():
            loop.add_signal_handler(number, self._received, loop)

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


class _Server(uvicorn.Server):
    """uvicorn that says when it listens and leaves the signals to us."""

    def __init__(self, config: uvicorn.Config, *, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        # uvicorn's own raises the signal again after the drain, and so would end the process
        # before the embedded server is stopped.
        yield


def _run(main: Callable[[_Signals], Coroutine[Any, Any, None]]) -> int:
    """Run `main` on uvloop with the signals watched; the exit code."""
    signals = _Signals()

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
            # The task has ended by it: a handler that awaits it fails, and its job tells why.
            _log.error("exit_prevented", error=type(error).__name__, exc_info=error)


async def _end_others() -> bool:
    """Cancel what still runs; False where a task does not hear of it within a second."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=LAST_WORDS_SECONDS)
    deaf = sorted(task.get_name() for task in others if not task.done())
    if deaf:
        _log.error("tasks_left_behind", tasks=deaf[:10], count=len(deaf))
    return not deaf
