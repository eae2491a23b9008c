"""Writes log lines in a thread of its own, so that logging never waits for a reader."""

import logging
import os
import threading
import time
from collections import deque
from typing import Final, TextIO

from service.observability.metrics import LOG_LINES_DROPPED

MAX_WAITING_BYTES: Final = 8 * 1024 * 1024
"""Lines that wait for a reader; what comes beyond is dropped."""

MAX_WRITE_BYTES: Final = 64 * 1024
LAST_LINES_SECONDS: Final = 1.0
"""How long a process that ends waits for its last lines to be read."""

BUSY_SECONDS: Final = 0.05
"""Pause when a stream that others made non-blocking takes no more for now."""


class LogWriter(logging.Handler):
    """Formats lines where they are logged, and writes them to a file descriptor from a thread.

    Otherwise a pipe that nobody reads, a stopped terminal or a full disk would block the event loop,
    and with it health checks and signals. Lines that do not fit into the buffer are dropped and
    counted, and a line reports their number once lines can be written again.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        # A copy: the number of a closed stream may be reused for a connection.
        self._descriptor = os.dup(stream.fileno())
        # The handler's own lock, which logging renews in a process that was forked.
        assert self.lock is not None
        self._changed = threading.Condition(self.lock)
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Buffer a line; the lock is held."""
        try:
            line = (self.format(record) + "\n").encode(errors="backslashreplace")
        except Exception:
            self.handleError(record)
            return
        if self._thread is None or not self._thread.is_alive():
            self._begin()
        if self._waiting_bytes + len(line) > MAX_WAITING_BYTES:
            self._drop(1)
            return
        self._lines.append(line)
        self._waiting_bytes += len(line)
        self._changed.notify_all()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Name a line that cannot be formatted; logging itself would print to the stream."""
        if record.name != __name__:
            self.emit(_record("log_line_unreadable", origin=record.name, line=record.lineno))

    def flush(self) -> None:
        """Wait a little for the lines to be written."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting_bytes, LAST_LINES_SECONDS)

    def close(self) -> None:
        """End once what waits is written; `flush` waits for that."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        super().close()

    def _begin(self) -> None:
        # After a fork the lines that waited are the parent's to write.
        self._lines.clear()
        self._waiting_bytes = 0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closed)
                if not self._lines:
                    return
                lines = [self._lines.popleft()]
                size = len(lines[0])
                while self._lines and size + len(self._lines[0]) <= MAX_WRITE_BYTES:
                    lines.append(self._lines.popleft())
                    size += len(lines[-1])
            written = self._write(b"".join(lines))
            with self._changed:
                self._waiting_bytes -= size
                if not written:
                    self._drop(len(lines))
                elif self._dropped:
                    notice = _record("log_lines_dropped", count=self._dropped)
                    self._dropped = 0
                    self.emit(notice)
                self._changed.notify_all()

    def _write(self, data: bytes) -> bool:
        """Write all of it, however long that takes; False if the stream is gone."""
        rest = memoryview(data)
        while rest:
            try:
                # Not through the stream: Python holds its lock meanwhile, and could not exit.
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                time.sleep(BUSY_SECONDS)
            except OSError:
                return False
        return True

    def _drop(self, count: int) -> None:
        self._dropped += count
        LOG_LINES_DROPPED.inc(count)


def _record(event: str, **fields: object) -> logging.LogRecord:
    known = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": event}
    return logging.makeLogRecord(known | fields)
