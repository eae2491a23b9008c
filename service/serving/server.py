"""uvicorn as the service runs it: with bounds on clients, and signals that are ours."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from service.serving.connection import bounded_protocol
from service.settings import Settings


def server_config(app: Any, settings: Settings) -> uvicorn.Config:
    """The configuration of uvicorn for an ASGI application."""
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


class Server(uvicorn.Server):
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
