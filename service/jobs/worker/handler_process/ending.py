"""How an attempt ended in a process of handlers: told there, and understood by its worker."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from service.errors import PayloadError
from service.jobs.core.attempt import InvalidPayload
from service.jobs.core.elsewhere import EncodedResult, RaisedElsewhere
from service.jobs.core.encoding import dump_json
from service.jobs.core.failures import MAX_MESSAGE_CHARS, Failure, clean_text
from service.jobs.core.outcomes import (
    PermanentError,
    RetryAfter,
    Snooze,
    asked_seconds,
    deciding,
)

# -- in the process -------------------------------------------------------------------------------


def returned(value: Any, *, max_bytes: int) -> dict[str, Any]:
    """The message about a handler that returned."""
    if value is None:
        return {"kind": "returned", "text": None}
    try:
        return {"kind": "returned", "text": dump_json(value, what="result", max_bytes=max_bytes)}
    except PayloadError as error:
        return {"kind": "returned", "text": "", "refused": error.detail}
    except MemoryError as error:
        return raised(error)


def raised(error: BaseException) -> dict[str, Any]:
    """The message about a handler that raised."""
    cause = deciding(error)
    match cause:
        case Snooze() | RetryAfter():
            try:
                seconds = asked_seconds(cause)
            except ValueError as problem:
                note = f"its `seconds` must be a finite number, so the backoff applies: {problem}"
                return _told(error, "error", note=note)
            kind = "snooze" if isinstance(cause, Snooze) else "retry_after"
            return _told(error, kind, seconds=seconds)
        case PermanentError():
            return _told(error, "permanent")
        case InvalidPayload():
            return _told(error, "bad_payload")
    return _told(error, "error")


def _told(
    error: BaseException, decides: str, *, seconds: float | None = None, note: str = ""
) -> dict[str, Any]:
    failure = Failure.from_exception(error, attempt=0, started_at=datetime.now(UTC), worker="")
    message = failure.message
    if note:
        message = clean_text(f"{note} ({message})", MAX_MESSAGE_CHARS)
    return {
        "kind": "raised",
        "decides": decides,
        "seconds": seconds,
        "type": failure.type,
        "message": message,
        "traceback": failure.traceback,
    }


# -- in its worker --------------------------------------------------------------------------------


def result_of(message: Mapping[str, Any]) -> EncodedResult | None:
    """What the message says that the handler returned; None for None.

    Raises:
        RaisedElsewhere: it raised.
    """
    if message["kind"] == "returned":
        if message["text"] is None:
            return None
        return EncodedResult(message["text"], message.get("refused"))
    raise RaisedElsewhere(
        _decides(message["decides"], message["seconds"]),
        name=message["type"],
        message=message["message"],
        traceback=message["traceback"],
    )


def _decides(kind: str, seconds: float | None) -> BaseException:
    match kind:
        case "snooze":
            return Snooze(seconds or 0.0)
        case "retry_after":
            return RetryAfter(seconds or 0.0)
        case "permanent":
            return PermanentError()
        case "bad_payload":
            return InvalidPayload()
    return Exception()
