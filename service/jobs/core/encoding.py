"""JSON as PostgreSQL's jsonb can hold it: everything else is refused here, with words."""

import json
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from pydantic_core import from_json, to_jsonable_python

from service.errors import PayloadError

_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_BYTE_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_WITH_EXPONENT: Final = re.compile(r"-?(\d)(?:\.(\d+))?e([+-]\d+)")

MAX_STATEMENT_BYTES: Final = 4 * 2**20
"""Limit on what one statement carries, beside its last value: a tenth of a second's work, so that
no batch of large values runs into a timeout that each of them alone would not."""

MAX_GROWTH: Final = 55
"""How many times as long a JSON text can be where PostgreSQL writes it: `5e-324` has 6
characters here and 326 there."""


def _jsonable(value: object) -> object:
    """What pydantic makes of a value that JSON lacks: a datetime, a UUID, a dataclass, a model."""
    if isinstance(value, Iterator):
        # pydantic would run it, here on the event loop; it may have no end.
        what = type(value).__name__
        raise ValueError(f"a {what} holds no values yet: make it a list")  # noqa: TRY004 - see `_encoded`
    return to_jsonable_python(value)


_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False,
    allow_nan=False,
    separators=(",", ":"),
    check_circular=True,
    default=_jsonable,
)


def dump_json(value: object, *, what: str, max_bytes: int) -> str:
    """The value as JSON text that jsonb accepts.

    Args:
        value: anything that JSON can hold, or that pydantic can turn into it: models, dataclasses,
            datetimes, UUIDs, decimals, enumerations, sets.
        what: the word for it in an error, such as `payload` or `result`.
        max_bytes: the longest text allowed, in bytes of UTF-8 as PostgreSQL writes it.

    Raises:
        PayloadError: NaN or infinity, NUL, a lone surrogate, a type without a JSON form, nested too
            deep, or too long.
    """
    try:
        text = _encoded(value)
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        raise PayloadError(
            f"The {what} holds a lone surrogate ({error.object[error.start]!r}), which is no "
            "character: PostgreSQL cannot store it",
            field=what,
        ) from None
    except RecursionError:
        raise PayloadError(f"The {what} is nested too deep", field=what) from None
    except MemoryError:
        raise  # it says nothing of the value
    except Exception as error:  # a model's or dataclass's own code may raise anything
        raise PayloadError(
            f"The {what} is not JSON: {str(error)[:300]}; allowed are objects, lists, strings, finite "
            "numbers, true, false, null, and what pydantic writes as these",
            field=what,
        ) from None
    _check_size(text, size, what=what, max_bytes=max_bytes)
    if "\\u0000" in text and _NUL.search(text):
        raise PayloadError(
            f"The {what} holds a NUL character (\\u0000), which PostgreSQL cannot store", field=what
        )
    return text


def edit_json(text: str, edit: Callable[[Any], Any], *, what: str, max_bytes: int) -> str:
    """A JSON text that came out of jsonb, with `edit` applied to its value.

    Numbers keep all their digits: `edit` gets them as strings that only this function knows.

    Raises:
        PayloadError: as `dump_json`.
    """
    mark = secrets.token_hex(16)
    try:
        value = json.loads(text, parse_int=mark.__add__, parse_float=mark.__add__)
    except RecursionError:
        raise PayloadError(f"The {what} is nested too deep", field=what) from None
    marked = dump_json(edit(value), what=what, max_bytes=sys.maxsize)
    edited = re.sub(f'"{mark}([^"]+)"', r"\1", marked)
    _check_size(edited, len(edited.encode()), what=what, max_bytes=max_bytes)
    return edited


def _check_size(text: str, size: int, *, what: str, max_bytes: int) -> None:
    if size * MAX_GROWTH > max_bytes and (size := size + _growth(text)) > max_bytes:
        raise PayloadError(
            f"The {what} takes {size} bytes as PostgreSQL writes it, where 1e308 has 309 digits; at "
            f"most {max_bytes} are allowed (MAX_PAYLOAD_BYTES): store large data elsewhere and pass "
            "a reference",
            field=what,
        )


def _encoded(value: object) -> str:
    try:
        return _ENCODER.encode(value)
    except TypeError:
        # A key that JSON lacks, such as a UUID or a date: the encoder asks `_jsonable` for values
        # alone.
        return _ENCODER.encode(to_jsonable_python(value))


def _growth(text: str) -> int:
    """How many more bytes jsonb's text of a JSON text has: spaces, and numbers written in full."""
    bare = _STRING.sub("", text)
    growth = bare.count(",") + bare.count(":")
    if "e" in bare:
        for number in _WITH_EXPONENT.finditer(bare):
            _, decimals, exponent = number.groups("")
            before, after = 1 + int(exponent), len(decimals) - int(exponent)
            digits = max(before, 1) + (1 + after if after > 0 else 0)
            growth += digits + number[0].startswith("-") - len(number[0])
    return growth


def load_json(text: str) -> Any:
    """The value of a JSON text that came out of jsonb."""
    try:
        return from_json(text)  # a quarter of the time
    except ValueError:
        return json.loads(text)  # nested deeper than the other goes


def bytes_bound(text: str) -> int:
    """How many bytes a text takes as UTF-8 at most, without encoding it."""
    return len(text) if text.isascii() else 4 * len(text)


def deeper_than(text: bytes, limit: int) -> bool:
    """Whether JSON text nests deeper than `limit`; brackets inside strings do not count.

    The innermost pairs are taken out again and again: one round, at the speed of a search, for each
    level. To count byte by byte held the loop for a tenth of a second for each megabyte.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    brackets = _BYTE_STRING.sub(b"", text).translate(_SQUARE, _NOT_BRACKETS)
    for _ in range(limit):
        fewer = brackets.replace(b"[]", b"")
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    # What is left was never closed, or lies deeper still.
    return b"[]" in brackets or brackets.count(b"[") > limit
