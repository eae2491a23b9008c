"""JSON as handlers give it: results, fields of log lines, texts of errors."""

import json
from dataclasses import asdict, is_dataclass
from datetime import date, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

MAX_FIELDS_BYTES: Final = 8_192
"""Of one log line; the service cuts what is long as well."""


class NotStorable(Exception):
    """A value has no JSON form, or is too large."""


def encode_result(value: Any, *, max_bytes: int) -> bytes:
    """A handler's result as JSON.

    Raises:
        NotStorable: it has no JSON form, or takes more than `max_bytes`.
    """
    try:
        encoded = _dumps(value)
    except Exception as error:  # a `__str__` or a `model_dump` may raise anything
        raise NotStorable(
            f"the result of the type {type(value).__name__} cannot be stored as JSON: {error}"
        ) from error
    if len(encoded) > max_bytes:
        raise NotStorable(
            f"the result takes {len(encoded)} bytes as JSON, and {max_bytes} are allowed: store it elsewhere, "
            "and return where it is"
        )
    return encoded


def encode_fields(fields: dict[str, Any]) -> dict[str, Any] | None:
    """The fields of a line as plain JSON values; what has no JSON form becomes text."""
    if not fields:
        return None
    try:
        encoded = json.dumps(fields, default=str, allow_nan=False, ensure_ascii=False)
        if len(encoded.encode()) > MAX_FIELDS_BYTES:
            return {"fields": f"not shown: {len(encoded)} characters"}
        decoded: dict[str, Any] = json.loads(encoded)
    except Exception as error:  # a `__str__` may raise anything
        return {"fields": f"not shown: {type(error).__name__}"}
    return decoded


def clean_text(text: str, max_chars: int, *, keep_end: bool = False) -> str:
    """`text` without what PostgreSQL cannot hold, cut to `max_chars`."""
    if len(text) > max_chars:
        text = "…" + text[1 - max_chars :] if keep_end else text[: max_chars - 1] + "…"
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _dumps(value: Any) -> bytes:
    text = json.dumps(
        value, default=_plain, allow_nan=False, ensure_ascii=False, separators=(",", ":")
    )
    return text.encode()


def _plain(value: Any) -> Any:
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, UUID | Decimal | PurePath):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return list(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if hasattr(value, "model_dump"):  # pydantic's
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")
