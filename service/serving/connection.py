"""HTTP connections with limits on everything that a client sends and on what it does not read.

uvicorn limits neither the time nor the size of a request's head (its line and headers), does not count
the framing of a body, and waits forever for a client that does not read its answer. The content of a
body has the limits of `service.api.body`.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import Any, ClassVar, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

FRAMING_PER_BODY_BYTE: Final = 8
"""How many bytes of framing each byte of a body may bring: chunks of one byte take five."""
MAX_PIPELINED: Final = 100
"""Requests sent ahead on one connection, at most."""

_log = logging.getLogger(__name__)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on the time and size of what a client sends and leaves unread."""

    head_seconds: ClassVar[float] = 10.0
    head_bytes: ClassVar[int] = 65_536
    read_seconds: ClassVar[float] = 30.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._awaits_head = True
        self._unread = 0
        """Bytes that came and were neither a complete head nor a body."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first head from now on."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._head_is_there()
        self._stop_answer_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive bytes; count those that are neither a complete head nor a body."""
        self._unread += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unread > self.head_bytes:
            # A head that does not end, or chunk extensions and line breaks without one.
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._awaits_head:
            if self._head_timer is None:
                self._expect_head()
        elif self.cycle.response_complete and self.timeout_keep_alive_task is None:
            # Line breaks between requests begin none, and have stopped the keep-alive timer.
            self._expect_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._awaits_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; none comes after the head."""
        if not self._awaits_head:
            # A trailer field. uvicorn would append it to the headers, as a forged credential perhaps.
            self._refuse(HTTPStatus.BAD_REQUEST)
            raise ValueError("trailer fields are not taken")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete; one that came in one piece is measured here."""
        self._head_is_there()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.head_bytes:
            # The parser passes it on as an error of its own: the answer is out by then.
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            raise ValueError("the head of the request is too large")
        if len(self.pipeline) >= MAX_PIPELINED:
            self.transport.close()
            raise ValueError("too many requests were sent ahead")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body: its reader counts it, and it raises the limit for the framing around it."""
        self._unread = max(0, self._unread - len(body) * (1 + FRAMING_PER_BODY_BYTE))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete: what comes now is of the next one."""
        self._unread = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is written; where it was the last one, the client may still have to read it."""
        super().on_response_complete()
        if self._answer_timer is None and self.transport.is_closing():
            self._expect_reading()

    def pause_writing(self) -> None:
        """So much of an answer is unread that no more is written."""
        super().pause_writing()
        if self._answer_timer is None:
            self._expect_reading()

    def resume_writing(self) -> None:
        """Most has been read; a connection that is to close after the rest waits for it as long again."""
        super().resume_writing()
        self._stop_answer_timer()
        if self.transport.is_closing():
            self._expect_reading()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came after the last answer; nor does a client read it that still waits."""
        if self.transport.get_write_buffer_size():
            self._answer_is_late()
        super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP, unless it has been answered."""
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def _expect_head(self) -> None:
        self._awaits_head = True
        self._head_timer = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _head_is_there(self) -> None:
        self._awaits_head = False
        self._unread = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._unread:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()  # a connection made ahead and not used: no fault of anybody

    def _expect_reading(self) -> None:
        self._answer_timer = self.loop.call_later(self.read_seconds, self._answer_is_late)

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _answer_is_late(self) -> None:
        self._answer_timer = None
        left = self.transport.get_write_buffer_size()
        if left:
            _log.warning("client_does_not_read", extra={"unread_bytes": left})
            # Not close, which waits for them to be read.
            self.transport.abort()

    def _refuse(self, status: HTTPStatus) -> None:
        # None before the first request, whatever its annotation says.
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(
                f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-length: 0\r\n"
                "connection: close\r\n\r\n".encode()
            )
        self.transport.close()


def bounded_protocol(
    *, head_seconds: float, head_bytes: int, read_seconds: float
) -> type[BoundedProtocol]:
    """The protocol with these bounds, as `uvicorn.Config(http=…)` takes it."""
    return type(
        "BoundedProtocol",
        (BoundedProtocol,),
        {"head_seconds": head_seconds, "head_bytes": head_bytes, "read_seconds": read_seconds},
    )
