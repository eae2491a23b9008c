"""Records of `logging` that a handler makes, kept as lines of its job; see `capture_logging`."""

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, Protocol

from service.jobs.core.log_line import Level
from service.observability.logging import redact, redact_text


class _Keep(Protocol):
    def __call__(self, level: Level, message: str, fields: Mapping[str, Any]) -> None: ...


_keep: ContextVar[_Keep | None] = ContextVar("captured_logging", default=None)
"""Takes the lines of the attempt that runs in this context: its task, the tasks that it starts, its thread."""

_USUAL: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes of every record; others were given as `extra`."""
_NOT_FIELDS: Final = frozenset({"event", "level", "logger", "timestamp", "exc_info"})


def capture(keep: _Keep) -> None:
    """Have `keep` take what is logged in the current context from now on."""
    root = logging.getLogger()
    if _handler not in root.handlers:
        root.addHandler(_handler)
    _keep.set(keep)


class _Handler(logging.Handler):
    """Hands each record on to the attempt that made it; without one it costs a look-up."""

    def emit(self, record: logging.LogRecord) -> None:
        keep = _keep.get()
        if keep is None:
            return
        try:
            keep(_level(record.levelno), *_message(record))
        except Exception:
            self.handleError(record)


_handler: Final = _Handler()


def _level(number: int) -> Level:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warning"
    return "info" if number >= logging.INFO else "debug"


def _message(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    if isinstance(record.msg, dict):  # of structlog
        message = str(record.msg.get("event", ""))
        fields = {name: one for name, one in record.msg.items() if name not in _NOT_FIELDS}
    else:
        message = record.getMessage()
        fields = {name: one for name, one in vars(record).items() if name not in _USUAL}
    fields = {"logger": record.name} | {n: v for n, v in fields.items() if not n.startswith("_")}
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return redact_text(message), dict(redact(None, "", fields))
