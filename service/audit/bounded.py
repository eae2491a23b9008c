"""JSON of an entry, cut to a size that is safe to keep: no value may fail the change it records."""

import json
import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from service.db.json_values import read_json

MAX_MEMBER_CHARACTERS: Final = 8_000
MAX_DOCUMENT_CHARACTERS: Final = 32_000
"""Of a value as JSON; what is longer is cut."""
KEPT_CHARACTERS: Final = 2_000
"""How much of a value that is cut stays to be read, as text."""
MAX_NAME_CHARACTERS: Final = 200

CUT: Final = "$cut"
"""The mark: `{"$cut": "<its first characters as JSON>", "$characters": <how many it had>}`."""

_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""An escaped NUL, which jsonb refuses; an even number of backslashes before it is text."""


def bounded_json(value: Mapping[str, Any] | None) -> str | None:
    """The value as JSON that jsonb takes; members that are too long are replaced by a mark."""
    if value is None:
        return None
    members = {
        bounded_text(str(name), MAX_NAME_CHARACTERS): _bounded(member)
        for name, member in value.items()
    }
    text = json.dumps(members, ensure_ascii=False)
    nested_too_deep = not isinstance(read_json(text), dict)
    if nested_too_deep or len(text) > MAX_DOCUMENT_CHARACTERS:
        text = json.dumps(_mark(text), ensure_ascii=False)
    return text


def bounded_text(value: str, limit: int) -> str:
    """The text without what PostgreSQL cannot hold, and with `…` at its end where it was longer."""
    kept = value if len(value) <= limit else value[: limit - 1] + "…"
    return kept.encode(errors="replace").decode().replace("\x00", "\ufffd")


def _bounded(value: Any) -> Any:
    try:
        text = json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False)
        if len(text) > MAX_MEMBER_CHARACTERS:
            return _mark(text)
        clean = text.encode(errors="replace").decode()  # lone surrogates
        return json.loads(_NUL.sub(r"\1\\ufffd", clean))
    except (ValueError, TypeError, RecursionError) as error:
        return {CUT: f"not shown: {type(error).__name__}", "$characters": None}


def _plain(value: object) -> object:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)


def _mark(text: str) -> dict[str, Any]:
    return {CUT: bounded_text(text[:KEPT_CHARACTERS], KEPT_CHARACTERS), "$characters": len(text)}
