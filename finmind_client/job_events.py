"""What happens to a job, and the reading of a stream of it (server-sent events), without I/O."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

MAX_EVENT_BYTES: Final = 16 * 2**20
"""Limit on what is not yet a whole line: nothing that the service sends is so long."""

Kind = Literal["status", "progress", "log", "end"]


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One thing that happened to a job."""

    kind: Kind
    """`status`: how it stands; `progress`; `log`: a line of its handler; `end`: nothing comes after it."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Its members are those of `GET /jobs/{id}/events` for each kind."""
    id: str | None = None
    """What `events(…, last_event_id=event.id)` goes on after."""


class EventReader:
    """Reads a stream piece by piece, however it is cut."""

    def __init__(self) -> None:
        self.retry_seconds = 2.0
        """How soon to connect again once the stream is over; the service says it."""
        self.began = False
        """Whether anything came, if only a sign of life."""
        self.ended = False
        """Whether the end of the job was read."""
        self._rest = b""
        self._kind = ""
        self._data: list[str] = []
        self._id: str | None = None

    def feed(self, piece: bytes) -> Iterator[JobEvent]:
        """The events that are whole now.

        Raises:
            ValueError: this is no stream of events of a job.
        """
        self.began = True
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise ValueError(f"a line of the stream is longer than {MAX_EVENT_BYTES} bytes")
        for line in lines:
            event = self._line(line.rstrip(b"\r").decode("utf-8", "replace"))
            if event is not None:
                yield event

    def _line(self, line: str) -> JobEvent | None:
        if not line:
            return self._whole()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._kind = value
            case "data":
                self._data.append(value)
            case "id":
                self._id = value
            case "retry" if value.isdecimal():
                self.retry_seconds = min(int(value) / 1000, 60.0)
        return None

    def _whole(self) -> JobEvent | None:
        kind, data = self._kind, "\n".join(self._data)
        self._kind, self._data = "", []
        if kind not in {"status", "progress", "log", "end"} or not data:
            return None  # of a later version of the service
        self.ended = kind == "end"
        return JobEvent(kind, json.loads(data), self._id)  # type: ignore[arg-type]
