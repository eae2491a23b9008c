"""What became of an attempt, as it is reported."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from traceback import TracebackException
from typing import Any, Final, Literal, Self

from finmind_client.worker.encoding import NotStorable, clean_text, encode_result
from finmind_client.worker.errors import (
    PermanentError,
    RetryAfter,
    Snooze,
    causes_of,
    clamp_delay,
    deciding,
)

MAX_MESSAGE_CHARS: Final = 2_000
MAX_TRACEBACK_CHARS: Final = 8_000
MAX_CAUSES: Final = 10
"""Errors of one group that its message names."""
_OWN_FOLDER: Final = str(Path(__file__).parent)
"""Frames of files in it are left out at the top of tracebacks."""

Verb = Literal["complete", "fail", "snooze", "release"]
"""The call that reports it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One report, without the lease that it is of."""

    verb: Verb
    members: bytes = b""
    """Its members as JSON text, without braces: `"result":{"sent":1}`."""
    by_error: bool = False
    """Whether it failed by what a stop may cause: of a worker that stops, the job is given back then."""

    @classmethod
    def of_result(cls, result: Any, *, max_bytes: int) -> Self:
        """The handler returned; a result that cannot be stored fails the job for good."""
        try:
            return cls("complete", b'"result":' + encode_result(result, max_bytes=max_bytes))
        except NotStorable as error:
            return cls.failed("ResultNotStored", str(error), permanent=True)

    @classmethod
    def of_error(cls, error: BaseException) -> Self:
        """The handler raised; of a group the strictest error decides."""
        told = describe(error)
        try:
            match deciding(error):
                case Snooze() as snooze:
                    return cls("snooze", _members({"seconds": clamp_delay(snooze.seconds)}))
                case PermanentError():
                    return cls("fail", _members({"error": told, "permanent": True}))
                case RetryAfter() as retry:
                    seconds = clamp_delay(retry.seconds)
                    told_when = {"error": told, "retry_after_seconds": seconds}
                    return cls("fail", _members(told_when), by_error=True)
        except Exception as broken:  # of the handler's own error class: the backoff applies
            told["message"] += f" (its `seconds` must be a number: {type(broken).__name__})"
        return cls("fail", _members({"error": told}), by_error=True)

    @classmethod
    def failed(
        cls, kind: str, message: str, *, permanent: bool = False, by_error: bool = False
    ) -> Self:
        """It failed for a reason that is no exception of the handler."""
        error = {"type": kind, "message": clean_text(message, MAX_MESSAGE_CHARS)}
        return cls("fail", _members({"error": error, "permanent": permanent}), by_error=by_error)

    @classmethod
    def released(cls) -> Self:
        """It is to run elsewhere."""
        return cls("release")

    def document(self) -> dict[str, Any]:
        """The same as JSON, for another process."""
        return {"verb": self.verb, "members": self.members.decode(), "by_error": self.by_error}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """What `document` gave."""
        return cls(document["verb"], document["members"].encode(), document["by_error"])


def describe(error: BaseException) -> dict[str, str]:
    """An exception as `/worker/fail` takes it: bounded, with lines of code and no values."""
    trail = error.__traceback__
    while trail is not None and trail.tb_frame.f_code.co_filename.startswith(_OWN_FOLDER):
        trail = trail.tb_next
    message = _words_of(error)
    if isinstance(error, asyncio.CancelledError) and not message:
        message = "the handler was cancelled"
    if isinstance(error, BaseExceptionGroup):
        causes = [f"{type(one).__name__}: {_words_of(one)}" for one in causes_of(error)]
        more = len(causes) - MAX_CAUSES
        named = causes[:MAX_CAUSES] + ([f"and {more} more"] if more > 0 else [])
        message = f"{message}: {'; '.join(named)}"
    try:
        trace = "".join(TracebackException(type(error), error, trail, limit=-20).format())
    except Exception as broken:  # the same, of a cause
        trace = f"(not to be had: {type(broken).__name__})"
    return {
        "type": clean_text(type(error).__name__, 200),
        "message": clean_text(message, MAX_MESSAGE_CHARS),
        "traceback": clean_text(trace, MAX_TRACEBACK_CHARS, keep_end=True),
    }


def _words_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # of the handler's own error class
        return f"(its message cannot be read: {type(broken).__name__})"


def _members(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, ensure_ascii=False)[1:-1].encode()
