"""HTTP connections whose requests must have begun in time and within bounds.

uvicorn bounds neither how long the head of a request (its line and headers) may take nor how large
it may be: a client that sends one byte a minute holds its connection for ever, and one that never
ends a header fills the memory. What comes after the head has the limits of `service.api.middleware`.
"""

import asyncio
from http import HTTPStatus
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a bound on the time and size of each request's head."""

    head_seconds: ClassVar[float] = 10.0
    head_bytes: ClassVar[int] = 65_536

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._awaits_head = True
        self._head_size = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The first head is awaited from now on."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes in; those of a head that is not complete yet are counted."""
        awaited = self._awaits_head
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._awaits_head:
            # What came in one piece with the body before is not of this head, or hardly.
            self._head_size += len(data) if awaited else 0
            if self._head_size > self.head_bytes:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            elif self._head_timer is None:
                self._expect_head()
        elif self.cycle.response_complete and self.timeout_keep_alive_task is None:
            # Line breaks between requests begin none, and have stopped the keep-alive timer.
            self._expect_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._awaits_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is complete; one that came in one piece is measured here."""
        self._head_is_there()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.head_bytes:
            # The parser passes it on as an error of its own: the answer is out by then.
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            raise ValueError("the head of the request is too large")
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, unless it has been answered."""
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def _expect_head(self) -> None:
        self._awaits_head = True
        self._head_timer = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _head_is_there(self) -> None:
        self._awaits_head = False
        self._head_size = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._head_size:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()  # a connection made ahead and not used: no fault of anybody

    def _refuse(self, status: HTTPStatus) -> None:
        self.transport.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-length: 0\r\n"
            "connection: close\r\n\r\n".encode()
        )
        self.transport.close()


def bounded_protocol(*, head_seconds: float, head_bytes: int) -> type[BoundedProtocol]:
    """The protocol with these bounds, as `uvicorn.Config(http=…)` takes it."""
    return type(
        "BoundedProtocol",
        (BoundedProtocol,),
        {"head_seconds": head_seconds, "head_bytes": head_bytes},
    )
