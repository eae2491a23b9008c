"""JSON of the database as Python values, whatever numbers and nesting plain SQL stored."""

import json
import math
import re
import sys
from typing import Any, Final

from pydantic_core import from_json

_LONG_NUMBER: Final = re.compile(rf"\d{{{sys.float_info.max_10_exp + 1}}}")


def read_json(text: str) -> Any:
    """The value of a JSON text that came out of jsonb, as an answer can show it.

    A number that Python cannot read comes as the text of its digits, and a value that is nested
    deeper than an answer may be as its whole text.
    """
    try:
        if _LONG_NUMBER.search(text):
            return json.loads(text, parse_int=_integer, parse_float=_real)
        return from_json(text)
    except (ValueError, RecursionError):
        return text


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= sys.int_info.default_max_str_digits else digits


def _real(digits: str) -> float | str:
    value = float(digits)
    return value if math.isfinite(value) else digits
