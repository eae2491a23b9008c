"""The shell around every request, plain ASGI: request id, limits, security headers, log line.

It reads the whole body first, which FastAPI does anyway: so that the limits hold however the body
is sent, and a handler never waits for a slow client with a database connection in its hands.
"""

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Awaitable
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem_response
from service.api.session import new_deadline
from service.observability.logging import get_logger
from service.settings import Settings

REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"}
)
"""Others are refused before they become a label of a metric."""

DRAIN_SECONDS: Final = 2.0
DRAIN_FACTOR: Final = 10
"""How much of a refused body is read and thrown away: so many times the limit, and no longer."""

_API_CSP: Final = b"default-src 'none'; frame-ancestors 'none'"
_FIXED_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_JSON_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_OPENING: Final = frozenset(b"[{")

_log = get_logger("service.api.access")


class BodyRefused(Exception):
    """The body breaks a limit: the status to answer with, what to say, whether more is coming."""

    def __init__(self, status: int, detail: str, *, unread: bool) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.unread = unread


class ClientGone(Exception):
    """The client hung up before its body was read."""


class RequestShell:
    """Outermost layer of the application."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass a lifespan event on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, send)
        tokens = structlog.contextvars.bind_contextvars(request_id=request.id)
        try:
            await self._serve(request, scope, receive)
        except ClientGone:
            request.status = 499
        finally:
            self._log(request, scope)
            structlog.contextvars.reset_contextvars(**tokens)

    async def _serve(self, request: "_Request", scope: Scope, receive: Receive) -> None:
        if scope["method"] not in METHODS:
            await request.refuse(501, "This HTTP method is not known.")
            return
        try:
            body = await self._body(scope, receive)
        except BodyRefused as refused:
            rest = _drain(receive, self._settings.max_body_bytes) if refused.unread else None
            await request.refuse(refused.status, refused.detail, before_close=rest)
            return
        scope["deadline"] = new_deadline(self._settings)
        try:
            await self._app(scope, _replay(body, receive), request.send)
        except Exception:
            # The edge of the application: whatever nobody expected ends here.
            _log.exception("request_failed", method=scope["method"], path=scope["path"])
            if request.started:
                raise
            await request.refuse(
                500, "Something went wrong here; the log has it under this request id."
            )

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, or None where the headers say that there is none."""
        length = _declared_length(scope)
        if length is None:
            return None
        limit = self._settings.max_body_bytes
        if length > limit:
            raise BodyRefused(413, f"The body is over {limit} bytes.", unread=True)
        try:
            async with asyncio.timeout(self._settings.body_timeout_seconds):
                body = await _read(receive, limit)
        except TimeoutError:
            seconds = self._settings.body_timeout_seconds
            detail = f"The body did not arrive within {seconds:g} s."
            raise BodyRefused(408, detail, unread=True) from None
        depth = self._settings.max_json_depth
        if deeper_than(body, depth):
            raise BodyRefused(422, f"The body is nested deeper than {depth} levels.", unread=False)
        return body

    def _log(self, request: "_Request", scope: Scope) -> None:
        seconds = time.perf_counter() - request.began
        if request.status >= 500:
            level = "error" if request.status == 500 else "warning"
        elif seconds >= self._settings.slow_request_seconds:
            level = "warning"
        elif not _log.is_enabled_for(logging.DEBUG):
            return
        else:
            level = "debug"
        getattr(_log, level)(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=request.status,
            seconds=round(seconds, 4),
        )


class _Request:
    """One request on its way: its id, and what was answered."""

    __slots__ = ("_send", "began", "id", "started", "status")

    def __init__(self, scope: Scope, send: Send) -> None:
        self.began = time.perf_counter()
        self.status = 0
        self.started = False
        self._send = send
        self.id = secrets.token_hex(8)
        for name, value in scope["headers"]:
            if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
                self.id = value.decode()
        scope["request_id"] = self.id

    async def send(self, message: Message) -> None:
        """Pass an answer on, with the headers that every answer carries."""
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            present = {name for name, _ in headers}
            headers.append((b"x-request-id", self.id.encode()))
            headers.extend(_FIXED_HEADERS)
            # What has an ETag (the files of /docs) may be kept and asked about again.
            if b"cache-control" not in present and b"etag" not in present:
                headers.append((b"cache-control", b"no-store"))
            if b"content-security-policy" not in present:
                headers.append((b"content-security-policy", _API_CSP))
            message["headers"] = headers
        await self._send(message)

    async def refuse(
        self, status: int, detail: str, *, before_close: Awaitable[None] | None = None
    ) -> None:
        """Answer with a problem, without the application.

        With `before_close` the connection is closed after it has been awaited: the answer is out
        by then, and its end is not.
        """
        headers = {"Connection": "close"} if before_close is not None else {}
        # As for every other 422: the list of what was refused, here the body as a whole.
        whole = [{"field": "body", "message": detail, "type": "body_refused"}]
        response = problem_response(
            status,
            detail,
            headers=headers,
            request_id=self.id,
            errors=whole if status == 422 else None,
        )
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": response.raw_headers,
            }
        )
        more = before_close is not None
        body = bytes(response.body)
        await self.send({"type": "http.response.body", "body": body, "more_body": more})
        if before_close is not None:
            await before_close
            await self.send({"type": "http.response.body", "body": b""})


def _declared_length(scope: Scope) -> int | None:
    """What Content-Length says, 0 for a chunked body, None for no body at all."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18:
                raise BodyRefused(400, "Content-Length is not a number of bytes.", unread=True)
            return int(value) or None
        if name == b"transfer-encoding":
            return 0
    return None


async def _read(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        more = message.get("more_body", False)
        if size > limit:
            raise BodyRefused(413, f"The body is over {limit} bytes.", unread=more)
        chunks.append(chunk)
        if not more:
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _drain(receive: Receive, limit: int) -> None:
    """Read and throw away what the client still sends, within bounds.

    A connection closed on unread bytes is reset, and a client that sends before it reads would see
    that instead of the answer: what HTTP servers call a lingering close.
    """
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while size < limit * DRAIN_FACTOR:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _replay(body: bytes | None, receive: Receive) -> Receive:
    if body is None:
        return receive
    pending: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def replay() -> Message:
        nonlocal pending
        if pending is None:
            return await receive()
        message, pending = pending, None
        return message

    return replay


def deeper_than(body: bytes, limit: int) -> bool:
    """Whether JSON text nests deeper than `limit`; brackets inside strings do not count.

    Only a body with more opening brackets than the limit is looked at byte by byte.
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    depth = 0
    for byte in _JSON_STRING.sub(b"", body).translate(None, _NOT_BRACKETS):
        if byte in _OPENING:
            depth += 1
            if depth > limit:
                return True
        else:
            depth -= 1
    return False
