"""The events of one job as text (SSE), for one client."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from service.errors import InvalidInput
from service.jobs.core.job import MAX_ID
from service.jobs.core.redaction import redact, redacted_fields
from service.jobs.following.follower import Position, Reader
from service.jobs.following.state import JobState
from service.jobs.read.logs import LoggedLine

PING_SECONDS: Final = 15.0
"""How often a quiet stream says that it lives."""
STREAM_SECONDS: Final = 600.0
"""How long a stream lasts at most: who connects again is asked for its credential again."""
TRAILING_SECONDS: Final = 1.5
"""How long after a job's end lines of it may still be written: more than a worker gathers them."""
RETRY_MILLISECONDS: Final = 2000
"""How soon a browser connects again after a stream was cut."""
MAX_LINE: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class LastEvent:
    """What an event's `id` says: the line that was read last, and the state that was told last."""

    PATTERN: ClassVar[str] = r"^[0-9]{1,19}\.[0-9]{1,10}-[0-9a-f]{8}(-end)?$"

    position: Position
    digest: str
    is_end: bool = False

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """The `id` of an event; None where there is none.

        Raises:
            InvalidInput: no event has it.
        """
        if text is None:
            return None
        token, line, digest, end = re.fullmatch(r"(\d+)\.(\d+)-(\w+?)(-end)?", text).groups()  # type: ignore[union-attr]
        position = Position(int(token), int(line))
        if position.token > MAX_ID or position.line > MAX_LINE:
            raise InvalidInput(
                f"Last-Event-ID is {text!r}, which no event has: send the `id` of the last event "
                "unchanged, or leave it out",
                field="header.Last-Event-ID",
            )
        return cls(position, digest, end is not None)

    def __str__(self) -> str:
        end = "-end" if self.is_end else ""
        return f"{self.position.token}.{self.position.line}-{self.digest}{end}"


class EventStream:
    """What one client is told of its job, from the first event to the last."""

    def __init__(self, reader: Reader, *, job_type: str, seen: str | None) -> None:
        """`seen` is the digest of the state that the client was told last."""
        self._redacted = redacted_fields(job_type)
        self._reader = reader
        self._digest = seen or "0" * 8
        self._position = reader.position
        self._told: JobState | None = None
        self._ends_at: float | None = None
        """When no more lines of the job can come (monotonic); None while it is live."""

    async def texts(self) -> AsyncIterator[str]:
        """The text of the stream, piece by piece."""
        yield f"retry: {RETRY_MILLISECONDS}\n\n"
        reader, until = self._reader, time.monotonic() + STREAM_SECONDS
        while not reader.closed and time.monotonic() < until:
            if not await self._news():
                yield ": ping\n\n"
                continue
            for text in self._new():
                yield text
            if self._is_complete():
                yield self._end()
                return

    async def _news(self) -> bool:
        """Wait for what is new; False where nothing came for a while."""
        seconds = PING_SECONDS
        if self._ends_at is not None:
            seconds = self._ends_at - time.monotonic()
            if seconds <= 0:
                self._reader.look_again()
                seconds = PING_SECONDS
        try:
            async with asyncio.timeout(seconds):
                await self._reader.news.wait()
        except TimeoutError:
            return self._ends_at is not None
        self._reader.news.clear()
        return True

    def _new(self) -> Iterator[str]:
        for line in self._reader.take_lines():
            token, _, number = line.position.partition(".")
            self._position = Position(int(token), int(number))
            yield self._event("log", _line(line))
        state, before = self._reader.state, self._told
        if state is None or state == before:
            return
        self._told = state
        seen, self._digest = self._digest, state.digest
        if before is None and seen == self._digest:
            pass  # told before it connected again
        else:
            if before is None or before.to_json() != state.to_json():
                yield self._event("status", state.to_json())
            if state.progress is not None and (before is None or before.progress != state.progress):
                progress = redact(json.loads(state.progress), self._redacted)
                yield self._event("progress", progress)
        if state.has_ended and self._ends_at is None:
            left = TRAILING_SECONDS - (state.ended_seconds or 0.0)
            self._ends_at = time.monotonic() + max(0.0, left)

    def _is_complete(self) -> bool:
        if self._reader.deleted:
            return True
        reader, ends_at = self._reader, self._ends_at
        return ends_at is not None and not reader.lines and reader.all_lines_at >= ends_at

    def _end(self) -> str:
        state = None if self._reader.deleted else self._told
        return self._event("end", {"status": None if state is None else state.status}, end=True)

    def _event(self, name: str, data: Any, *, end: bool = False) -> str:
        last = LastEvent(self._position, self._digest, end)
        return f"id: {last}\nevent: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _line(line: LoggedLine) -> dict[str, Any]:
    return {
        "attempt": line.attempt,
        "at": line.at.isoformat().replace("+00:00", "Z"),
        "level": line.level,
        "message": line.message,
        "fields": line.fields,
    }
