"""Why an attempt failed, as the job's history keeps it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from traceback import TracebackException
from typing import Final

from service.jobs.core.encoding import bytes_bound

ENGINE_FOLDER: Final = f"{Path(__file__).parent.parent}{os.sep}"
"""Frames of files in it are left out at the top of tracebacks."""

MAX_MESSAGE_CHARS: Final = 2_000
MAX_TRACEBACK_CHARS: Final = 8_000
MAX_CAUSES: Final = 10
"""Errors of one group that its message names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt failed, as it is kept in the job's history."""

    event: str = "error"
    attempt: int
    type: str
    message: str
    traceback: str | None = None
    started_at: datetime | None = None
    worker: str | None = None
    chunk: int | None = None
    """How many jobs the handler was called with at once; None where it takes one job."""

    @classmethod
    def from_exception(
        cls,
        error: BaseException,
        *,
        attempt: int,
        started_at: datetime,
        worker: str,
        chunk: int | None = None,
    ) -> "Failure":
        """The failure that a handler's exception describes, cut to a bounded size."""
        # A frame's lines only, not the values in it: those may hold secrets.
        trail = error.__traceback__
        while trail is not None and trail.tb_frame.f_code.co_filename.startswith(ENGINE_FOLDER):
            trail = trail.tb_next  # where the engine called the handler says nothing of the failure
        trace = TracebackException(type(error), error, trail, limit=-20, compact=True)
        _drop_columns(trace)
        lines = "".join(trace.format())
        return cls(
            attempt=attempt,
            type=type(error).__name__,
            message=clean_text(words_of(error), MAX_MESSAGE_CHARS),
            traceback=clean_text(lines, MAX_TRACEBACK_CHARS, keep_end=True),
            started_at=started_at,
            worker=worker,
            chunk=chunk,
        )

    @property
    def size(self) -> int:
        """How many bytes its texts take at most."""
        return bytes_bound(self.message) + bytes_bound(self.traceback or "")

    def to_json(self) -> dict[str, object]:
        """As the `errors` column keeps it."""
        entry: dict[str, object] = {
            "event": self.event,
            "attempt": self.attempt,
            "type": self.type,
            "message": self.message,
            "traceback": self.traceback,
            "started_at": self.started_at.isoformat() if self.started_at else None,
            "at": datetime.now(UTC).isoformat(),
            "worker": self.worker,
            "by": None,
        }
        return entry if self.chunk is None else entry | {"chunk": self.chunk}


def causes_of(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The errors of a group and of the groups inside it, in order."""
    waiting: list[BaseException] = [group]
    while waiting:
        error = waiting.pop()
        if isinstance(error, BaseExceptionGroup):
            waiting += reversed(error.exceptions)
        else:
            yield error


def _drop_columns(trace: TracebackException) -> None:
    """Leave out which part of each line failed: finding that takes two thirds of the time."""
    chain: list[TracebackException | None] = [trace]
    while chain:
        one = chain.pop()
        if one is not None:
            for frame in one.stack:
                frame.colno = None
            chain += [one.__cause__, one.__context__, *(one.exceptions or ())]


def words_of(error: BaseException) -> str:
    """The message of an error; of a group, with those of its causes."""
    words = _own_words_of(error)
    if not isinstance(error, BaseExceptionGroup):
        return words
    causes = list(causes_of(error))
    named = [f"{type(cause).__name__}: {_own_words_of(cause)}" for cause in causes[:MAX_CAUSES]]
    if len(causes) > MAX_CAUSES:
        named.append(f"and {len(causes) - MAX_CAUSES} more")
    return f"{words}: {'; '.join(named)}"


def _own_words_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # of the handler's own error class
        return f"(its message cannot be read: {type(broken).__name__})"


def clean_text(text: str, max_chars: int, *, keep_end: bool = False) -> str:
    """`text` without what PostgreSQL cannot hold, cut to `max_chars`."""
    if len(text) > max_chars:
        text = "…" + text[-max_chars:] if keep_end else text[:max_chars] + "…"
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
