"""The lines that one attempt logs about its job: checked, cut, numbered and bounded."""

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from service.audit.bounded import bounded_json
from service.jobs.core.failures import clean_text
from service.jobs.core.job import JobId, LeaseToken
from service.jobs.core.log_line import LEVELS, LogLine

MAX_MESSAGE_CHARS: Final = 4_000


class JobLog:
    """Takes the lines of one attempt, from any thread, up to so many lines and bytes."""

    def __init__(
        self,
        *,
        job_id: JobId,
        lease_token: LeaseToken,
        attempt: int,
        max_lines: int,
        max_bytes: int,
        put: Callable[[LogLine], None],
    ) -> None:
        self._job = (job_id, lease_token)
        self._attempt = attempt
        self._max_lines = max_lines
        self._bytes_left = max_bytes
        self._put = put
        self._lines = 0
        self._full = max_lines == 0
        self._lock = threading.Lock()

    def write(self, level: str, message: str, fields: Mapping[str, Any]) -> None:
        """Take one line, or the last that is kept, which says so.

        Raises:
            ValueError: there is no such level.
        """
        if level not in LEVELS:
            raise ValueError(f"level {level!r}: expected one of {', '.join(LEVELS)}")
        text, encoded = clean_text(str(message), MAX_MESSAGE_CHARS), encoded_fields(fields)
        with self._lock:
            if self._full:
                return
            line = self._next(level, text, encoded)
            if line.size > self._bytes_left:
                self._end()
                return
            self._bytes_left -= line.size
            self._lines = line.line
            self._put(line)
            if self._lines >= self._max_lines:
                self._end()

    def _end(self) -> None:
        """Say once that what comes is not kept, in a line over the limit."""
        self._full = True
        self._put(full_line(*self._job, self._lines + 1, self._attempt))

    def _next(self, level: str, message: str, fields: str | None) -> LogLine:
        number = self._lines + 1
        return LogLine(*self._job, number, self._attempt, datetime.now(UTC), level, message, fields)


def full_line(job_id: JobId, lease_token: LeaseToken, number: int, attempt: int) -> LogLine:
    """The line that says that no more is kept."""
    words = (
        "What this attempt logs from here on is not kept: it has logged all that "
        "JOB_LOG_LINES and JOB_LOG_BYTES allow"
    )
    now = datetime.now(UTC)
    return LogLine(job_id, lease_token, number, attempt, now, "warning", words, None)


def encoded_fields(fields: Mapping[str, Any]) -> str | None:
    """The fields of a line as JSON text, cut where they are long; None where there are none."""
    if not fields:
        return None
    try:
        return bounded_json(fields)
    except Exception:  # the `__str__` of a value may raise anything
        return bounded_json({str(name): _shown(value) for name, value in fields.items()})


def _shown(value: object) -> object:
    """The value, or why it cannot be written: the other fields of its line can."""
    try:
        bounded_json({"": value})
    except Exception as error:
        return f"not shown: {type(error).__name__}"
    return value
