"""JSON as PostgreSQL's jsonb can hold it: everything else is refused here, with words."""

import json
import re
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import from_json

from service.errors import PayloadError

_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=True
)
_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def dump_json(value: object, *, what: str, max_bytes: int) -> str:
    """The value as JSON text that jsonb accepts.

    Args:
        value: anything that JSON can hold, or a pydantic model.
        what: the word for it in an error, such as `payload` or `result`.
        max_bytes: the longest text allowed, in bytes of UTF-8.

    Raises:
        PayloadError: NaN or infinity, NUL, a lone surrogate, a type that JSON lacks, nested too
            deep, or too long.
    """
    try:
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json")
        text = _ENCODER.encode(value)
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        raise PayloadError(
            f"the {what} holds a lone surrogate ({error.object[error.start]!r}), which is no "
            "character: PostgreSQL cannot store it",
            field=what,
        ) from None
    except RecursionError:
        raise PayloadError(f"the {what} is nested too deep", field=what) from None
    except (TypeError, ValueError) as error:
        raise PayloadError(
            f"the {what} is not JSON: {error}. Allowed are objects, lists, strings, finite numbers, "
            "true, false and null",
            field=what,
        ) from None
    if size > max_bytes:
        raise PayloadError(
            f"the {what} takes {size} bytes as JSON; at most {max_bytes} are allowed "
            "(MAX_PAYLOAD_BYTES). Store large data elsewhere and pass a reference",
            field=what,
        )
    if "\\u0000" in text and _NUL.search(text):
        raise PayloadError(
            f"the {what} holds a NUL character (\\u0000), which PostgreSQL cannot store", field=what
        )
    return text


def load_json(text: str) -> Any:
    """The value of a JSON text that came out of jsonb."""
    try:
        return from_json(text)  # a quarter of the time
    except ValueError:
        return json.loads(text)  # nested deeper than the other goes
