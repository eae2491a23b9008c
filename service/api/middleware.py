"""What surrounds every request, in plain ASGI: request id, limits, security headers, log line."""

import logging
import re
import secrets
import time
from typing import Final

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.body import Body
from service.api.head import HeadRefused, declared_length
from service.api.lasting import LASTING
from service.api.problems import problem_response
from service.api.session import new_deadline
from service.observability.logging import get_logger
from service.settings import Settings

REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")

UNEXPECTED: Final = "An internal error occurred; the log has it under this request id"
FAILURE_ANSWER: Final = "failure_answer"
"""Where a request's scope holds what to answer to an error that nobody expected; else a problem."""

_API_CSP: Final = b"default-src 'none'; frame-ancestors 'none'"
_FIXED_HEADERS: Final = ((b"x-content-type-options", b"nosniff"),)
_DEFAULT_HEADERS: Final = (
    (b"content-security-policy", _API_CSP),
    (b"referrer-policy", b"no-referrer"),
)
"""For answers that do not bring their own."""

_log = get_logger("service.api.access")


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
        finally:
            self._log(request, scope)
            structlog.contextvars.reset_contextvars(**tokens)

    async def _serve(self, request: "_Request", scope: Scope, receive: Receive) -> None:
        self._place(scope)
        try:
            length = declared_length(scope)
        except HeadRefused as refused:
            # The length cannot be known: the body is read as one of unknown length.
            request.body = Body(scope, receive, 0, self._settings)
            await request.refuse(refused.status_code, refused.detail)
            return
        request.body = body = Body(scope, receive, length, self._settings)
        scope["deadline"] = new_deadline(self._settings)
        try:
            await self._app(scope, body.receive, request.send)
        except Exception:
            # The edge of the application: whatever nobody expected ends here.
            _log.exception("request_failed", method=scope["method"], path=scope["path"])
            if request.started:
                raise
            answer: Response | None = scope.get(FAILURE_ANSWER)
            await request.answer(answer or problem_response(500, UNEXPECTED, request_id=request.id))

    def _place(self, scope: Scope) -> None:
        """Put the path under `ROOT_PATH`, whether or not a proxy has stripped that."""
        root = self._settings.root_path
        if root:
            if not f"{scope['path']}/".startswith(f"{root}/"):
                scope["path"] = root + scope["path"]
                scope["raw_path"] = root.encode() + scope["raw_path"]
            scope["root_path"] = root

    def _log(self, request: "_Request", scope: Scope) -> None:
        seconds = time.perf_counter() - request.began
        if request.status >= 500:
            level = "error" if request.status == 500 else "warning"
        elif seconds >= self._settings.slow_request_seconds and not (
            request.is_stream or scope.get(LASTING)
        ):
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

    __slots__ = ("_send", "began", "body", "id", "is_stream", "started", "status")

    def __init__(self, scope: Scope, send: Send) -> None:
        self.began = time.perf_counter()
        self.status = 0
        self.is_stream = False
        """Whether the answer is to last: a stream of events."""
        self.started = False
        self.body: Body | None = None
        self._send = send
        self.id = secrets.token_hex(8)
        for name, value in scope["headers"]:
            if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
                self.id = value.decode()
        scope["request_id"] = self.id

    async def send(self, message: Message) -> None:
        """Pass an answer on, with the headers that every answer carries.

        One that comes before the body was read closes the connection: its end is held back until
        the client has stopped to send, or sent enough.
        """
        unread = self.body is not None and self.body.unread
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            present = {name for name, _ in headers}
            self.is_stream = any(value.startswith(b"text/event-stream") for _, value in headers)
            headers.append((b"x-request-id", self.id.encode()))
            headers.extend(_FIXED_HEADERS)
            # What has an ETag (the files of /docs) may be kept and asked about again.
            if b"cache-control" not in present and b"etag" not in present:
                headers.append((b"cache-control", b"no-store"))
            headers += [header for header in _DEFAULT_HEADERS if header[0] not in present]
            if unread:
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        elif unread and self.body is not None and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self.body.drain()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def refuse(self, status: int, detail: str) -> None:
        """Answer with a problem, without the application."""
        await self.answer(problem_response(status, detail, request_id=self.id))

    async def answer(self, response: Response) -> None:
        """Answer with this."""
        await self.send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": response.raw_headers,
            }
        )
        await self.send({"type": "http.response.body", "body": bytes(response.body)})
