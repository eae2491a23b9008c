"""How an attempt can end, and what a handler may raise to choose it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from traceback import TracebackException
from typing import Final

from service.jobs.core.backoff import MAX_DELAY_SECONDS
from service.jobs.core.job import JobStatus

ENGINE_FOLDER: Final = str(Path(__file__).parent.parent / "_").removesuffix("_")

MAX_MESSAGE_CHARS: Final = 2_000
MAX_TRACEBACK_CHARS: Final = 8_000
MAX_CAUSES: Final = 10
"""Errors of one group that its message names."""


class PermanentError(Exception):
    """Raised by a handler when no retry could help: the job becomes FAILED at once."""


class RetryAfter(Exception):
    """Raised by a handler to retry after `seconds` in place of the backoff; uses an attempt."""

    def __init__(self, seconds: float, message: str = "") -> None:
        super().__init__(message or f"asked to be retried in {seconds:g} s")
        self.seconds = clamp_delay(seconds)


class Snooze(Exception):
    """Raised by a handler to be run again in `seconds`; uses no attempt and leaves no error."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"snoozed for {seconds:g} s")
        self.seconds = clamp_delay(seconds)


def asked_seconds(error: RetryAfter | Snooze) -> float:
    """In how many seconds `error` asks for another run.

    Raises:
        ValueError: what a class of the handler's own made of `seconds` is no finite number.
    """
    try:
        seconds = float(error.seconds)
    except Exception as broken:  # of the handler's own error class
        raise ValueError(_words_of(broken)) from None
    if not math.isfinite(seconds):
        raise ValueError(f"it is {seconds}")
    return clamp_delay(seconds)


def deciding(error: BaseException) -> BaseException:
    """The error that decides what becomes of the job: of a group, the strictest in it.

    A PermanentError comes before all others, then the RetryAfter with the longest delay. A Snooze
    counts only where nothing failed: where every error of the group is one.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, PermanentError):
            return cause
    asking: list[RetryAfter | Snooze] = [one for one in causes if isinstance(one, RetryAfter)]
    if not asking:
        asking = [one for one in causes if isinstance(one, Snooze)]
        if len(asking) < len(causes):
            return error
    return max(asking, key=_seconds_or_none)


def _seconds_or_none(error: RetryAfter | Snooze) -> float:
    try:
        return asked_seconds(error)
    except ValueError:
        return -1.0


def _causes(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """What failed in a group and in those inside it, in order."""
    waiting: list[BaseException] = [group]
    while waiting:
        error = waiting.pop()
        if isinstance(error, BaseExceptionGroup):
            waiting += reversed(error.exceptions)
        else:
            yield error


def clamp_delay(seconds: float) -> float:
    """`seconds` within 0 and a week; NaN counts as 0."""
    return 0.0 if math.isnan(seconds) else min(max(float(seconds), 0.0), MAX_DELAY_SECONDS)


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

    @classmethod
    def from_exception(
        cls, error: BaseException, *, attempt: int, started_at: datetime, worker: str
    ) -> "Failure":
        """The failure that an exception of a handler tells of, trimmed to a bounded size."""
        # A frame's lines only, not the values in it: those may hold secrets.
        trail = error.__traceback__
        while trail is not None and trail.tb_frame.f_code.co_filename.startswith(ENGINE_FOLDER):
            trail = trail.tb_next  # where the engine called the handler tells nobody anything
        told = TracebackException(type(error), error, trail, limit=-20, compact=True)
        _drop_columns(told)
        lines = "".join(told.format())
        return cls(
            attempt=attempt,
            type=type(error).__name__,
            message=clean_text(_words_of(error), MAX_MESSAGE_CHARS),
            traceback=clean_text(lines, MAX_TRACEBACK_CHARS, keep_end=True),
            started_at=started_at,
            worker=worker,
        )

    def to_json(self) -> dict[str, object]:
        """As the `errors` column keeps it."""
        return {
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


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The handler returned; `result` is its value as JSON text, None for null."""

    result: str | None = None


@dataclass(frozen=True, slots=True)
class Retried:
    """The attempt failed and retries are left."""

    delay_seconds: float
    failure: Failure
    reason: str


@dataclass(frozen=True, slots=True)
class Snoozed:
    """The handler asked to be run again later; no attempt is used."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Released:
    """The worker gave the job back unfinished; no attempt is used, its place in line is kept."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """Not begun: it was in flight when workers died, and is to come back apart from the others."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """No further attempt: DEAD_LETTER or FAILED, with a short reason for the metrics."""

    status: JobStatus
    failure: Failure
    reason: str


Outcome = Succeeded | Retried | Snoozed | Released | Postponed | Ended

SUCCEEDED_EMPTY: Final = Succeeded()
"""The commonest outcome, made once."""


def _drop_columns(told: TracebackException) -> None:
    """Leave out which part of each line failed: finding that takes two thirds of the time."""
    chain: list[TracebackException | None] = [told]
    while chain:
        one = chain.pop()
        if one is not None:
            for frame in one.stack:
                frame.colno = None
            chain += [one.__cause__, one.__context__, *(one.exceptions or ())]


def _words_of(error: BaseException) -> str:
    words = _own_words_of(error)
    if not isinstance(error, BaseExceptionGroup):
        return words
    causes = list(_causes(error))
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
