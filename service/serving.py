"""The long-running processes: HTTP with a worker, or a worker alone; from start to last drop.

The first SIGTERM or SIGINT stops claiming at once and drains; a second one ends the process
without waiting, and what it had claimed runs again when the leases end.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

import uvicorn
import uvloop

from service.app import Service, create_app
from service.errors import ConfigurationError
from service.observability.logging import get_logger
from service.settings import Settings

HTTP_DRAIN_SECONDS: Final = 5
"""Bound on requests still running at the stop; with SHUTDOWN_GRACE_SECONDS it makes 30 s."""
FORCED_EXIT_CODE: Final = 130
"""As shells have it for a process that Ctrl-C ended."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_log = get_logger(__name__)


def bind(settings: Settings) -> socket.socket:
    """The socket to serve on, bound but not listening: callers are refused until we are ready.

    Raises:
        ConfigurationError: the address is taken, or is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}. "
            "Set HOST or PORT to another (PORT=0 takes a free one)"
        ) from error
    return bound


def serve(
    settings: Settings,
    *,
    dsn: str,
    listener: socket.socket,
    run_worker: bool,
    on_ready: Callable[[], None],
) -> int:
    """Serve HTTP on `listener` until a signal; the exit code, 0 after a drain."""
    app = create_app(settings, dsn=dsn, run_worker=run_worker)
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",  # the service says itself that it starts and stops
        server_header=False,
        timeout_graceful_shutdown=HTTP_DRAIN_SECONDS,
    )
    server = _Server(config, on_ready=on_ready)

    def begin_to_stop() -> None:
        service.stop_claiming()
        server.should_exit = True

    async def run() -> None:
        with _signals(begin_to_stop):
            # Not left to uvicorn, which would turn an error of the start into a logged traceback.
            async with app.router.lifespan_context(app):
                if not server.should_exit:
                    await server.serve(sockets=[listener])

    return _run(run())


def work(settings: Settings, *, dsn: str, on_ready: Callable[[], None]) -> int:
    """Run jobs without HTTP until a signal; the exit code, 0 after a drain."""

    async def run() -> None:
        stopping = asyncio.Event()
        with _signals(stopping.set):
            async with Service(settings, dsn=dsn, run_worker=True) as service:
                on_ready()
                await stopping.wait()
                service.stop_claiming()

    return _run(run())


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


def _run(main: Coroutine[Any, Any, None]) -> int:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    except asyncio.CancelledError:
        return FORCED_EXIT_CODE
    return 0


@contextlib.contextmanager
def _signals(begin_to_stop: Callable[[], None]) -> Iterator[None]:
    """Within it the first signal calls `begin_to_stop`, the second cancels the current task."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    before = {number: signal.getsignal(number) for number in SIGNALS}
    stopping = False

    def handle() -> None:
        nonlocal stopping
        if stopping:
            task.cancel()
        else:
            stopping = True
            _log.info("stopping", hint="a second signal ends it without waiting")
            begin_to_stop()

    for number in SIGNALS:
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
