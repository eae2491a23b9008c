"""The body of a request: read when it is first asked for, at once and within bounds.

It is read as a whole, as FastAPI does anyway: the limits hold however it is sent, and no handler waits
for a slow client while it holds a database connection. If nothing asks for the body (the caller was
refused, the route takes none) it is not read.
"""

import asyncio
import contextlib
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

from service.api.session import new_deadline
from service.jobs.core.encoding import deeper_than
from service.settings import Settings

DRAIN_SECONDS: Final = 2.0
DRAIN_FACTOR: Final = 10
"""How much of an unread body is read and thrown away: so many times the limit, and no longer."""


class BodyRefused(HTTPException):
    """The body breaks a limit."""


class Body:
    """The body of one request; `receive` takes the place of the server's."""

    __slots__ = ("_expected", "_length", "_receive", "_scope", "_settings", "gone")

    def __init__(
        self, scope: Scope, receive: Receive, length: int | None, settings: Settings
    ) -> None:
        """`length` is what `declared_length` found."""
        self._scope = scope
        self._receive = receive
        self._length = length
        self._settings = settings
        self._expected = length is not None
        self.gone = False
        """Whether the client hung up before its body was read."""

    @property
    def unread(self) -> bool:
        """Whether some of it may still be on its way."""
        return self._expected and not self.gone

    async def receive(self) -> Message:
        """The whole body in one message; after it the server's own messages.

        Raises:
            BodyRefused: it breaks a limit.
        """
        if not self._expected:
            return await self._receive()
        limit = self._settings.max_body_bytes
        if self._length is not None and self._length > limit:
            raise BodyRefused(413, f"The body is over {limit} bytes")
        seconds = self._settings.body_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                body = await self._read(limit)
        except TimeoutError:
            raise BodyRefused(408, f"The body did not arrive within {seconds:g} s") from None
        if body is None:
            self.gone = True
            return {"type": "http.disconnect"}
        depth = self._settings.max_json_depth
        if deeper_than(body, depth):
            raise BodyRefused(422, f"The body is nested deeper than {depth} levels")
        # The database's time starts here: a slow client uses none of it.
        self._scope["deadline"] = new_deadline(self._settings)
        return {"type": "http.request", "body": body, "more_body": False}

    async def _read(self, limit: int) -> bytes | None:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            self._expected = message.get("more_body", False)
            if size > limit:
                raise BodyRefused(413, f"The body is over {limit} bytes")
            chunks.append(chunk)
            if not self._expected:
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def drain(self) -> None:
        """Read and throw away what the client still sends, within bounds.

        A connection closed on unread bytes is reset, and a client that sends before it reads would
        see that instead of the answer: what HTTP servers call a lingering close.
        """
        size = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._expected and size < self._settings.max_body_bytes * DRAIN_FACTOR:
                    message = await self._receive()
                    size += len(message.get("body", b""))
                    self._expected = message.get("more_body", False)
