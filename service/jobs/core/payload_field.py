"""One field of a payload and the value asked for, such as `user.id:1`."""

import json
import re
from dataclasses import dataclass
from typing import Final, Self

from service.errors import InvalidInput

MAX_PATH_STEPS: Final = 16
MAX_TEXT_CHARS: Final = 300
"""Limit on a field's path and value together."""

# Exponents of three digits: PostgreSQL refuses numbers with more than 131,072 digits.
_SCALAR: Final = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,3})?|true|false|null", re.ASCII)
_PATH: Final = re.compile(rf'[^\s".:]+(\.[^\s".:]+){{0,{MAX_PATH_STEPS - 1}}}')
_RULE: Final = (
    "expected a path and a value such as user.id:1; steps are separated by dots and hold no space, "
    f"colon or quote, at most {MAX_PATH_STEPS}; a number counts into a list, from 0"
)


@dataclass(frozen=True, slots=True)
class PayloadField:
    """A path into the payload and the value that must stand there.

    `1`, `true` and `null` match the JSON value and the string of the same letters; a value in double
    quotes matches the string alone.
    """

    path: tuple[str, ...]
    value: str
    string_only: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """The field that a text such as `user.id:1` or `user.name:"Ada L."` names.

        Raises:
            InvalidInput: it has no path, no value, or is too long.
        """
        if len(text) > MAX_TEXT_CHARS:
            raise InvalidInput(
                f"payload is {len(text)} characters long: at most {MAX_TEXT_CHARS} are allowed",
                field="payload",
            )
        name, colon, value = text.partition(":")
        quoted = len(value) > 1 and value[0] == value[-1] == '"'
        if not _PATH.fullmatch(name) or not colon or not value or "\0" in text:
            raise InvalidInput(f"payload is {text!r}: {_RULE}", field="payload")
        return cls(tuple(name.split(".")), value[1:-1] if quoted else value, quoted)

    def __str__(self) -> str:
        value = f'"{self.value}"' if self.string_only else self.value
        return f"{'.'.join(self.path)}:{value}"

    @property
    def forms(self) -> list[str]:
        """The JSON texts that the value may stand for."""
        string = json.dumps(self.value, ensure_ascii=False)
        if self.string_only or not _SCALAR.fullmatch(self.value):
            return [string]
        return [string, self.value]
