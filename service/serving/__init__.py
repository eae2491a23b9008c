"""Serves the application over HTTP, with or without API and worker, until a signal ends it."""

import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from service.app import Service
from service.errors import ConfigurationError
from service.heap import tune_garbage_collection
from service.serving.connection import bounded_protocol
from service.serving.process import Signals, run_until_signal
from service.settings import Settings


def bind(host: str, port: int, *, setting: str) -> socket.socket:
    """The socket to serve on, bound but not listening: callers are refused until we are ready.

    `setting` names where the port comes from.

    Raises:
        ConfigurationError: the address is taken, or does not belong to this machine.
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

    The signal starts the grace period of requests and jobs together: neither waits for the other.
    """
    service: Service = app.state.service
    server = _Server(_server_config(app, service.settings), on_ready=on_ready)

    def begin_to_stop() -> None:
        service.stop_claiming()
        server.should_exit = True

    async def run(signals: Signals) -> None:
        signals.on_first(begin_to_stop)
        # Not left to uvicorn, which would turn an error of the start into a logged traceback.
        async with app.router.lifespan_context(app):
            signals.take()  # a handler module may have
            tune_garbage_collection()
            if not server.should_exit:
                await server.serve(sockets=[listener])

    return run_until_signal(run)


def _server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=bounded_protocol(
            head_seconds=settings.header_timeout_seconds,
            head_bytes=settings.max_header_bytes,
            read_seconds=settings.answer_timeout_seconds,
        ),
        timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type]  # it takes fractions
        ws="none",
        lifespan="off",
        access_log=False,
        # uvicorn would trust every client on loopback, and read the variable by itself.
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=list(settings.forwarded_allow_ips),
        log_config=None,
        log_level="warning",  # the service says itself that it starts and stops
        server_header=False,
        # uvicorn takes whole seconds.
        timeout_graceful_shutdown=max(1, int(settings.shutdown_grace_seconds)),
    )


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
