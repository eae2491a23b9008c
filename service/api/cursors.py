"""Opaque cursors: where the next page starts, and of which list."""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Final

from service.errors import InvalidInput
from service.jobs.core.job import MAX_ID

VERSION: Final = 1
MAX_CURSOR_CHARS: Final = 200


def encode_cursor(before_id: int, filters: Mapping[str, object]) -> str:
    """A cursor for what lies below `before_id` in the list with these filters."""
    return _encode(before_id, filters)


def encode_position(position: tuple[int, str], filters: Mapping[str, object]) -> str:
    """The same for a list in the order of a number, where those with the same one are told apart."""
    return _encode(position, filters)


def _encode(before: object, filters: Mapping[str, object]) -> str:
    document = {"v": VERSION, "before": before, "list": _digest(filters)}
    text = json.dumps(document, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def decode_cursor(cursor: str, filters: Mapping[str, object]) -> int:
    """The id that `cursor` stands for.

    Raises:
        InvalidInput: it is not a cursor of this service, of another version, or of a list with other
            filters.
    """
    before = _decode(cursor, filters)
    if type(before) is not int or not 0 <= before <= MAX_ID:
        raise _unusable("it is not one of this service")
    return before


def decode_position(cursor: str, filters: Mapping[str, object]) -> tuple[int, str]:
    """The position that `cursor` of `encode_position` stands for; raises as `decode_cursor` does."""
    match _decode(cursor, filters):
        case [int(number), str(name)] if abs(number) <= MAX_ID and "\0" not in name:
            return number, name
    raise _unusable("it is not one of this service")


def _decode(cursor: str, filters: Mapping[str, object]) -> object:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        document = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        version, before, of = document["v"], document["before"], document["list"]
    except (ValueError, binascii.Error, KeyError, TypeError, RecursionError):
        raise _unusable("it is not one of this service") from None
    if version != VERSION:
        raise _unusable(f"its version is {str(version)[:20]!r}, expected {VERSION}")
    if of != _digest(filters):
        raise _unusable("it belongs to a list with other filters")
    return before


def _digest(filters: Mapping[str, object]) -> str:
    text = json.dumps(filters, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unusable(why: str) -> InvalidInput:
    return InvalidInput(
        f"The cursor was refused: {why}; pass next_cursor unchanged, with the same filters, "
        "or leave it out to start from the newest",
        field="query.cursor",
    )
