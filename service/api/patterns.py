"""The patterns that texts must match, each with its rule in words for error messages."""

import re
from typing import Final

from pydantic import BeforeValidator

from service.jobs.core.job import NAME_PATTERN, NAME_RULE

VISIBLE_ASCII: Final = r"^[\x21-\x7e]+$"
NO_NUL: Final = r"^[^\x00]*$"

_DIGITS: Final = re.compile(r"0|[1-9][0-9]*", re.ASCII)


def _plain_number(value: object) -> object:
    # int() takes 1_0, +1 and 1.0 as well, and one job would have many addresses.
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise ValueError("expected a whole number in digits alone, such as 42")
    return value


PLAIN_NUMBER: Final = BeforeValidator(_plain_number)
"""A number in a path or query is written in one way: `Annotated[int, …, PLAIN_NUMBER]`."""

RULES: Final = {
    NAME_PATTERN: NAME_RULE,
    VISIBLE_ASCII: "visible ASCII characters, without spaces",
    NO_NUL: "text without NUL characters, which PostgreSQL cannot store",
}
