"""A payload as a person edits it: read with every digit, compared line by line."""

import difflib
import json
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from pydantic import ValidationError

from service.dashboard import json_view
from service.errors import InvalidInput
from service.jobs.core.encryption import ENCRYPTED
from service.jobs.core.job_types import DEFAULTS, policies

MAX_DIFFERENCE_LINES: Final = 400
_MAX_DEPTH: Final = 200


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a difference."""

    kind: str
    """`added`, `removed`, `same` or `skipped`."""
    text: str


def read_payload(text: str, *, job_type: str) -> Any:
    """The value of a JSON text.

    Raises:
        InvalidInput: it is no JSON, or null, a number of it has more digits than the service can
            pass on, or the model of its type refuses it.
    """
    value = read_json(text, what="payload")
    if value is None:
        raise _unsendable("it is null: write an object")
    _check_model(text, job_type)
    return value


def read_json(text: str, *, what: str) -> Any:
    """The value of any JSON text; `what` is the word for it in an error.

    Raises:
        InvalidInput: it is no JSON, or a number of it has more digits than the service can pass on.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise _unsendable(f"it is nested deeper than {_MAX_DEPTH} levels", what=what) from None
    except json.JSONDecodeError as error:
        why = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise _unsendable(why, what=what) from None
    except ValueError as error:
        raise _unsendable(str(error), what=what) from None
    for number in json_view.numbers_in(json_view.parse(text)):
        if not _is_exact(number):
            raise _unsendable(
                f"{number[:60]} has more digits than a number keeps on its way: write it as a string",
                what=what,
            )
    return value


def difference(before: str, after: str) -> list[Line]:
    """What changed between two texts, with three lines around each change."""
    marks = {"+": "added", "-": "removed", " ": "same", "@": "skipped"}
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=3)
    found = [
        Line(marks[line[0]], "…" if line[0] == "@" else line)
        for line in lines
        if not line.startswith(
            ("---", "+++", "@@ -1,", "@@ -1 ")
        )  # nothing is skipped above line 1
    ]
    if len(found) > MAX_DIFFERENCE_LINES:
        rest = len(found) - MAX_DIFFERENCE_LINES
        return [*found[:MAX_DIFFERENCE_LINES], Line("skipped", f"… {rest} more lines")]
    return found


def _is_exact(number: str) -> bool:
    """Whether Python's number is the same: integers are, decimals of up to 17 digits."""
    if number.lstrip("-").isdigit():
        return True
    try:
        return Decimal(repr(float(number))) == Decimal(number)
    except (InvalidOperation, ValueError, OverflowError):
        return False


def _check_model(text: str, job_type: str) -> None:
    model = policies.get(job_type, DEFAULTS).payload_model
    if (
        model is None or f'"{ENCRYPTED}"' in text
    ):  # its handler checks it, once all of it can be read
        return
    try:
        model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "payload"
        raise _unsendable(f"the model of {job_type} refuses it: {where}: {first['msg']}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unsendable(why: str, *, what: str = "payload") -> InvalidInput:
    return InvalidInput(f"The {what} cannot be sent: {why}", field=what)
