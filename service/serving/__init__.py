"""Serves the application over HTTP, with or without API and worker, until a signal ends it."""

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from service.errors import ConfigurationError
from service.heap import tune_garbage_collection
from service.serving.process import Signals, run_until_signal
from service.serving.server import Server, server_config
from service.serving.supervisor.pipe import SupervisorPipe

if TYPE_CHECKING:  # a supervisor serves another application
    from fastapi import FastAPI

    from service.app import Service


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


def run_app(
    app: "FastAPI",
    *,
    listener: socket.socket,
    on_ready: Callable[[], None],
    supervisor: SupervisorPipe | None = None,
) -> int:
    """Serve `app` on `listener` until a signal, or its supervisor, ends it; the exit code, 0 after a drain.

    The signal starts the grace period of requests and jobs together: neither waits for the other.
    """
    service: Service = app.state.service
    server = Server(server_config(app, service.settings), on_ready=on_ready)

    def begin_to_stop() -> None:
        service.stop_claiming()
        server.should_exit = True

    async def run(signals: Signals) -> None:
        signals.on_first(begin_to_stop)
        if supervisor is not None:
            supervisor.watch(signals, grace_seconds=service.settings.shutdown_grace_seconds)
        # Not left to uvicorn, which would turn an error of the start into a logged traceback.
        async with app.router.lifespan_context(app):
            signals.take()  # a handler module may have
            tune_garbage_collection()
            if not server.should_exit:
                await server.serve(sockets=[listener])

    return run_until_signal(run)
