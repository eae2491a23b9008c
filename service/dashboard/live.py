"""Live pages: a stream of events for each open page, which says that jobs changed, and nothing else.

`live.js` then asks for the page again and changes the regions that it marks. A stream holds one
event at a time, however many come. While nobody looks, nothing listens and nobody is told; see
`service.jobs.notify.changes`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api.stats_cache import KEPT_SECONDS
from service.dashboard.access import COOKIE, Watcher, sessions_of
from service.dashboard.route import page_router
from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.errors import Unavailable
from service.jobs.loops import Loop
from service.jobs.notify.listener import Listener
from service.jobs.notify.messages import Watch
from service.jobs.notify.publisher import publisher_for
from service.observability.logging import get_logger
from service.observability.metrics import DASHBOARD_STREAMS, DASHBOARD_STREAMS_REFUSED
from service.settings import Settings

WATCH_SECONDS: Final = 10.0
"""How often the other processes are told that somebody looks."""
LINGER_SECONDS: Final = 30.0
"""How long this process goes on to listen after its last page: the next one is often a click away."""
BLIND_SECONDS: Final = 5.0
"""How often pages look for themselves where the database passes no notifications on."""
PING_SECONDS: Final = 15.0
"""How often a stream says that it lives, and asks whether its session does."""
SHORTEST_SECONDS: Final = 1.0
"""From one event of a stream to the next."""
MAX_STREAMS_PER_SESSION: Final = 5
"""Over HTTP/1.1 a browser opens six connections to a host: one is left for the pages themselves."""
STREAM_AGAIN_SECONDS: Final = 30
"""When a page that was refused a stream may ask for one again."""
RETRY_MILLISECONDS: Final = 2000
"""How soon a browser connects again after a stream was cut."""

_log = get_logger(__name__)

router = page_router()


class Live:
    """The open streams of one process."""

    def __init__(self, database: Database, settings: Settings, *, listener: Listener) -> None:
        self._max_streams = settings.dashboard_max_streams
        self._publisher = publisher_for(database.engine)
        self._publisher.changes.on_heard = self._changed
        self._listener = listener
        self._blind = not settings.database_listen
        self._streams: set[Stream] = set()
        self._wanted = asyncio.Event()
        self._last_left = 0.0
        self._loop = Loop("live", self._run)
        self.closing: Final = asyncio.Event()

    def start(self) -> None:
        """Wait for the first page."""
        self._loop.start()

    def close(self) -> None:
        """End every stream: the server waits for them. Safe in a signal handler."""
        self.closing.set()
        self._changed()

    async def stop(self) -> None:
        """Listen no more."""
        self.close()
        self._publisher.changes.on_heard = None
        await self._loop.stop()

    def open(self, session: str) -> "Stream":
        """A new stream of this session; whoever opened it closes it.

        Raises:
            Unavailable: too many are open, or the service stops.
        """
        of_session = sum(stream.session == session for stream in self._streams)
        if self.closing.is_set() or len(self._streams) >= self._max_streams:
            raise _refused(f"{len(self._streams)} pages are live here (DASHBOARD_MAX_STREAMS)")
        if of_session >= MAX_STREAMS_PER_SESSION:
            raise _refused(f"{of_session} pages of your session are live here")
        stream = Stream(self, session)
        self._streams.add(stream)
        # Its page may show counts that were kept before a change which nobody told it of.
        asyncio.get_running_loop().call_later(KEPT_SECONDS, stream.changed.set)
        DASHBOARD_STREAMS.set(len(self._streams))
        self._wanted.set()
        return stream

    def left(self, stream: "Stream") -> None:
        """A stream has ended."""
        self._streams.discard(stream)
        self._last_left = time.monotonic()
        DASHBOARD_STREAMS.set(len(self._streams))

    def _changed(self) -> None:
        for stream in self._streams:
            stream.changed.set()

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._listener.hold()
            try:
                while self._streams or time.monotonic() - self._last_left < LINGER_SECONDS:
                    self._publisher.tell(Watch())
                    await self._until_next_watch()
            finally:
                await self._listener.release()
            self._wanted.clear()

    async def _until_next_watch(self) -> None:
        if not self._blind:
            await asyncio.sleep(WATCH_SECONDS)
            return
        for _ in range(int(WATCH_SECONDS / BLIND_SECONDS)):
            await asyncio.sleep(BLIND_SECONDS)
            self._changed()


class Stream:
    """The events of one open page."""

    def __init__(self, live: Live, session: str) -> None:
        self._live = live
        self.session: Final = session
        self.changed: Final = asyncio.Event()

    def close(self) -> None:
        """Give the stream's place back."""
        self._live.left(self)

    async def events(
        self, may_stay: Callable[[], Awaitable[bool]], *, ping_seconds: float = PING_SECONDS
    ) -> AsyncIterator[str]:
        """The text of the stream, until the service stops or its session has ended."""
        yield f"retry: {RETRY_MILLISECONDS}\n\n"
        closing = self._live.closing
        while not closing.is_set():
            try:
                async with asyncio.timeout(ping_seconds):
                    await self.changed.wait()
            except TimeoutError:
                if not await may_stay():
                    yield _event("signed-out")
                    return
                yield _event("ping")
                continue
            self.changed.clear()
            if closing.is_set():
                return
            yield _event("changed")
            with suppress(TimeoutError):
                async with asyncio.timeout(SHORTEST_SECONDS):
                    await closing.wait()


class _StreamResponse(StreamingResponse):
    """An answer that never ends by itself, and gives the place of its stream back."""

    def __init__(self, stream: Stream, may_stay: Callable[[], Awaitable[bool]]) -> None:
        super().__init__(
            stream.events(may_stay),
            media_type="text/event-stream",
            # nginx would collect the events before it passes them on.
            headers={"X-Accel-Buffering": "no", "Cache-Control": "no-store"},
        )
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()


@router.get("/events")
async def events(request: Request, _: Watcher) -> StreamingResponse:
    """Events of a live page (SSE): `changed`, at most once a second; `ping`; `signed-out`."""
    live: Live = request.app.state.live
    sessions, secret = sessions_of(request), request.cookies[COOKIE]

    async def may_stay() -> bool:
        try:
            return await sessions.find(secret, note_use=False) is not None
        except DATABASE_ERRORS as error:
            _log.info("session_not_checked", error=type(error).__name__)
            return True

    return _StreamResponse(live.open(secret), may_stay)


def _refused(why: str) -> Unavailable:
    DASHBOARD_STREAMS_REFUSED.inc()
    return Unavailable(
        f"{why}; this one looks every few seconds instead", retry_after_seconds=STREAM_AGAIN_SECONDS
    )


def _event(name: str) -> str:
    return f"event: {name}\ndata:\n\n"
